"""What holdfast.toml says about a system that speaks HTTP: `[upstreams.NAME]` with `kind = "http"`.

Rules
1. What is not declared is refused: other hosts, other routes, other methods. There is no default for them.
2. A route that does not say what it is reads (GET, HEAD, OPTIONS) or is irreversible (every other method).
3. A selector names a value of a call: `path.id`, `query.x`, `header.x`, `body.a.b` (of JSON or of a form).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from holdfast.core.contract import Contract, Drift, Level, Repeat
from holdfast.core.effect import Kind

Method = Literal["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]
Seconds = Annotated[float, Field(ge=0, le=366 * 86_400)]
Status = Annotated[int, Field(ge=200, le=599)]

READS = frozenset({"GET", "HEAD", "OPTIONS"})


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Inject(_Strict):
    """Where one credential goes: into exactly one of a header, the query or the body."""

    credential: str = Field(description="Its name under [credentials].")
    header: str | None = Field(None, description="The header that carries it, as `Authorization`.")
    query: str | None = Field(None, description="The query parameter that carries it.")
    body: str | None = Field(None, description="The field of a JSON object or a form that carries it.")
    prefix: str = Field("", description="What stands before it, as `Bearer ` (with the blank).")
    user: str | None = Field(None, description="With it, the header is `Basic` of this user and the credential.")
    hosts: tuple[str, ...] = Field((), description="Origins that are given it; none: only that of `base`.")

    @model_validator(mode="after")
    def _one_place(self) -> Inject:
        if sum(place is not None for place in (self.header, self.query, self.body)) != 1:
            raise ValueError("name exactly one of `header`, `query` and `body`")
        if self.user is not None and (self.header is None or self.prefix):
            raise ValueError("`user` needs `header`, and no `prefix`")
        return self


class Follow(_Strict):
    """A request that is made of a call: texts may hold `{key}` (the idempotency key), `{path.id}`, `{query.x}`,
    `{body.x}`, and in an undo `{answer.body.id}`, `{answer.header.location}`."""

    path: str = Field(description="Its path, relative to `base`, with `{…}` for what the call or its answer holds.")
    query: dict[str, str] = Field(default_factory=dict[str, str], description="Its query, with `{…}` as in `path`.")


class Probe(Follow):
    """How to ask whether a call has happened: GET or HEAD."""

    method: Literal["GET", "HEAD"] = Field("GET", description="Its method.")
    exists: str | None = Field(
        None, description="A selector of the answer (`body.data.0`): it happened if something is there. None: any 2xx."
    )
    absent: tuple[Status, ...] = Field((404,), description="Statuses that prove that it did not happen.")


class Undo(Follow):
    """How to take a call back."""

    method: Method = Field("DELETE", description="Its method.")
    body: dict[str, object] | None = Field(None, description="Its JSON body; texts are templates, too.")
    gone: tuple[Status, ...] = Field((404, 410), description="Statuses that say that it is not there (any more).")


class Route(_Strict):
    """One operation of the system."""

    method: Method = Field(description="Its method.")
    path: str = Field(description="Its path, relative to `base`; `{name}` stands for one segment.")
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]{1,80}$", description="The tool is SYSTEM.NAME.")
    description: str = Field("", description="What an agent is told about it.")
    kind: Kind | None = Field(
        None, description="What repeating it means; none: `read` for GET, HEAD and OPTIONS, else `irreversible`."
    )
    identity: tuple[str, ...] | None = Field(None, description="Selectors that make two calls the same; none: all.")
    resource: tuple[str, ...] | None = Field(None, description="Selectors of what it touches.")
    repeat: Repeat | None = Field(None, description="What a further call of the same identity means.")
    drift: Drift | None = Field(None, description="What the same identity with other arguments means.")
    approval: Level = Field(Level.NONE, description="How many people must agree.")
    blast: int | str | None = Field(None, description="How much it touches: a number, or a selector of one or a list.")
    key_ttl_s: Seconds | None = Field(None, description="How long the system remembers an idempotency key.")
    late_s: Seconds | None = Field(None, description="How late it may still be carried out.")
    timeout_s: Seconds = Field(60.0, gt=0, description="How long an answer is waited for.")
    refused: tuple[Status, ...] = Field((), description="Further statuses that prove that nothing was changed.")
    happened: tuple[Status, ...] = Field((), description="Statuses besides 2xx that mean that it is so.")
    mints: tuple[str, ...] = Field((), description="Selectors of secrets in the answer; the agent is given handles.")
    labels: tuple[str, ...] | None = Field(None, description="Whose words the answer holds; none: as the system.")
    batch: bool = Field(False, description="Whether a body may be a list at its top.")
    probe: Probe | None = Field(None, description="How to ask whether it has happened.")
    undo: Undo | None = Field(None, description="How to take it back.")

    @property
    def meant(self) -> Kind:
        """Its kind, by rule 2 where it says none."""
        return self.kind or (Kind.READ if self.method in READS else Kind.IRREVERSIBLE)


class HttpConfig(_Strict):
    """A system that is reached over HTTP."""

    kind: Literal["http"] = Field(description="`http`.")
    base: str = Field(description="Where it is: `https://HOST/PATH`.")
    description: str = Field("", description="What an agent is told about it.")
    hosts: tuple[str, ...] = Field((), description="Further origins (`https://HOST`) that a redirect may lead to.")
    private: tuple[str, ...] = Field((), description="Hosts, addresses or networks of these that are not public.")
    ca_file: str | None = Field(None, description="Certificates (PEM) to trust instead of the system's.")
    inject: tuple[Inject, ...] = Field((), description="Its credentials, and where they go.")
    routes: tuple[Route, ...] = Field((), description="Its operations.")
    openapi: str | None = Field(
        None, description="An OpenAPI 3 file (JSON) with more operations; what `routes` say goes before it."
    )
    headers: tuple[str, ...] = Field((), description="Request headers that an agent may set besides the usual ones.")
    set_cookie: bool = Field(False, description="Whether an agent is shown the cookies that the system sets.")
    idempotency_header: str = Field("Idempotency-Key", description="The header of the key of a write; empty: none.")
    labels: tuple[str, ...] | None = Field(None, description="Whose words its answers hold; none: `untrusted:NAME`.")

    @property
    def credentials(self) -> tuple[str, ...]:
        """The names of the credentials that it uses."""
        return tuple(dict.fromkeys(inject.credential for inject in self.inject))

    def contracts(self, system: str) -> tuple[Contract, ...]:
        """What the declared routes of `system` promise; those of an OpenAPI file are not among them. Raises
        BadContract."""
        from holdfast.gateway.upstreams.http_routes import Table

        return tuple(operation.contract for operation in Table(system, self, self.routes).by_name.values())
