"""A provider of models: asked with the gateway's own credential, in the provider's own protocol.

Rules
1. What is asked changes nothing in the world: a failure is an outcome, and whoever asked may ask again.
2. An answer is scrubbed frame by frame, or whole, before anybody sees it and before it is recorded.
3. What the provider says no with (a status that is not 200, an error in a stream) is `Declined`: it is passed on in the
   provider's own words, and is no decision. What breaks off says so in the provider's form, as a 502.
4. An answer that does not say what it used, and one that broke off, cost the most that they can have cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Literal

import aiohttp
from pydantic import BaseModel, Field

from holdfast.core.canonical import JSON
from holdfast.core.contract import Contract, Drift, Repeat
from holdfast.core.effect import Encoding, Happened, Kind, NotHappened
from holdfast.errors import BadCall
from holdfast.gateway.hosts import Origin, take_apart
from holdfast.gateway.receipt import Receipt
from holdfast.gateway.scrub import Scrubber
from holdfast.gateway.upstreams import Declined, Prepared, Reply
from holdfast.gateway.upstreams.model_answer import STREAM, Answer, Prices, read_answer
from holdfast.gateway.upstreams.model_hearing import JSON_TYPE, Broken, Hearing, Tap
from holdfast.gateway.upstreams.model_wire import (
    WHOLE,
    WIRES,
    Form,
    Protocol,
    Question,
    Terms,
    error_of,
    read_object,
    read_question,
    spelt,
)

if TYPE_CHECKING:
    from holdfast.gateway.upstreams.kit import Kit

ANTHROPIC_VERSION = "2023-06-01"
BROKEN = 502
CONNECTIONS = 1000  # at once, to one provider
NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=15.0)

_Money = Annotated[Decimal, Field(ge=0, max_digits=12, decimal_places=6)]


class Priced(BaseModel, extra="forbid", frozen=True):
    """One model, with its prices in US dollars per million tokens."""

    input: _Money = Field(
        description="US dollars per million tokens of a request; where it rises with the length, the highest."
    )
    output: _Money = Field(description="US dollars per million tokens of an answer.")
    cached: _Money | None = Field(
        None, description="The same for tokens out of the provider's cache. Default: `input`."
    )
    written: _Money | None = Field(
        None, description="The same for tokens into it. Default: `input`; with Anthropic twice that."
    )
    max_output: int = Field(ge=1, description="The most tokens of one answer; asked for where the agent sets no limit.")

    def prices(self, protocol: Protocol) -> Prices:
        """What it costs with a provider that speaks so."""
        cached = self.input if self.cached is None else self.cached
        unsaid = 2 * self.input if protocol == "anthropic" else self.input
        written = unsaid if self.written is None else self.written
        return Prices(input=self.input, cached=cached, written=written, output=self.output)


class ModelConfig(BaseModel, extra="forbid", frozen=True):
    """`[upstreams.NAME]` with `kind = "model"`."""

    kind: Literal["model"]
    protocol: Protocol = Field(
        description="How the provider is spoken to: `openai` (chat completions, responses) or `anthropic` (messages)."
    )
    base_url: str = Field(description="As its SDK wants it: `https://api.openai.com/v1`, `https://api.anthropic.com`.")
    credential: str = Field(description="The API key, as it is named in `[credentials]`.")
    models: dict[str, Priced] = Field(min_length=1, description="The models that may be asked, by their names.")
    fields: tuple[str, ...] = Field(
        (), description="Fields of a request that are allowed besides those known as harmless."
    )
    tools: tuple[str, ...] = Field(
        (), description="Types of tools that the provider may carry out itself, where no policy is asked."
    )
    betas: tuple[str, ...] = Field((), description="Names that `anthropic-beta` may say.")
    elsewhere: bool = Field(
        False, description="Whether a request may name what the provider fetches: URLs, files, items."
    )
    private: tuple[str, ...] = Field((), description="Hosts, addresses or networks of these that are not public.")
    timeout_s: float = Field(600.0, gt=0, description="Seconds that an answer may take, from its request to its end.")

    @property
    def terms(self) -> Terms:
        """What may be asked."""
        most = {name: model.max_output for name, model in self.models.items()}
        return Terms(
            models=most, fields=self.fields, tools=self.tools, betas=self.betas, elsewhere=self.elsewhere
        )  # fmt: skip


class ModelUpstream:
    """One question to one provider, as `Upstream`."""

    def __init__(self, system: ModelSystem, question: Question) -> None:
        self.system = system
        self.question = question

    async def perform(self, args: bytes | None, receipt: Receipt) -> Reply:
        """Ask, for an answer that comes whole."""
        again = self if args is None else self.system.upstream(self.question.wire.operation, read_object(args))
        return await again.ask(WHOLE, receipt, Tap())

    async def ask(self, form: Form, receipt: Receipt, tap: Tap) -> Reply:
        """The answer, as it is recorded; what may be passed on before that goes into `tap`. Raises Declined."""
        return await self.system.ask(self.question, form, receipt, tap)

    async def probe(self, args: bytes | None, receipt: Receipt) -> Happened[Reply] | NotHappened | None:
        """Nothing changes by a question: nobody has to know whether it was asked."""
        return None

    async def undo(self, args: bytes | None, answer: Reply | None, receipt: Receipt) -> Reply:
        """There is nothing to take back."""
        raise BadCall("what a model said is not taken back")

    def read(self, data: bytes, encoding: Encoding) -> Reply:
        """As it was recorded."""
        return Reply(data, encoding, read_answer(data, self.question.wire.operation))

    def running(self, key: str) -> bool:
        """Nothing is left behind."""
        return False


class ModelSystem:
    """One provider at `origin`, as `System`. `base`: the path of its base URL. `client` reaches its host and no
    other."""

    def __init__(
        self, name: str, config: ModelConfig, kit: Kit, origin: Origin, base: str, client: aiohttp.ClientSession
    ) -> None:
        self._name = name
        self.config = config
        self.base = base
        self._url = f"{origin}{base}"
        self._terms = config.terms
        self._kit = kit
        self._client = client

    @property
    def name(self) -> str:
        """As `System.name`."""
        return self._name

    async def prepare(self, operation: str, args: Mapping[str, JSON]) -> Prepared:
        """A question: a read, since an answer changes nothing. `operation`: chat, responses or messages."""
        upstream = self.upstream(operation, args)
        question = upstream.question
        contract = Contract(
            name=f"{self._name}.{operation}", kind=Kind.READ, repeat=Repeat.EACH, drift=Drift.ADOPT
        )  # fmt: skip
        money = self._prices(question).most(question.input_most, question.output_most)
        return Prepared(system=self._name, contract=contract, args=question.asked, upstream=upstream, money=money)

    def upstream(self, operation: str, args: Mapping[str, JSON]) -> ModelUpstream:
        """The way to the answer to a question. Raises BadCall, Unknown."""
        wire = WIRES.get(operation)
        if wire is None or wire.protocol != self.config.protocol:
            raise BadCall(
                f"`{self._name}` has no operation `{operation[:80]}`", fix=f"one of: {', '.join(self.operations())}"
            )
        return ModelUpstream(self, read_question(wire, args, self._terms))

    def operations(self) -> Mapping[str, JSON]:
        """As `System.operations`."""
        told: dict[str, JSON] = {}
        for wire in WIRES.values():
            if wire.protocol == self.config.protocol:
                fields = sorted(wire.fields | set(self.config.fields))
                properties: dict[str, JSON] = {name: {} for name in fields}
                properties["model"] = {"enum": [*sorted(self.config.models)]}
                arguments: dict[str, JSON] = {"type": "object", "properties": properties, "required": ["model"]}
                arguments["additionalProperties"] = False
                told[wire.operation] = {"description": f"POST {wire.path} of a model provider", "arguments": arguments}
        return told

    async def close(self) -> None:
        """As `System.close`."""
        await self._client.close()

    def _prices(self, question: Question) -> Prices:
        return self.config.models[question.model].prices(self.config.protocol)

    # --- asking ---

    async def ask(self, question: Question, form: Form, receipt: Receipt, tap: Tap) -> Reply:
        """As `ModelUpstream.ask`."""
        credential = await self._kit.vault.open(self.config.credential, receipt)
        scrub = Scrubber([credential])
        url = self._url + question.wire.path
        headers = self._headers(question, credential.reveal())
        try:
            async with (
                asyncio.timeout(self.config.timeout_s),
                self._client.post(
                    url, data=question.body(form), headers=headers, allow_redirects=False, timeout=NO_TIMEOUT
                ) as response,
            ):
                answer = await Hearing(question.wire.operation, response, scrub, tap).hear()
        except Broken as error:
            raise self._broken(question, str(error)) from None
        except (aiohttp.ClientError, OSError) as error:
            sent = not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
            said = scrub.text(f"{type(error).__name__}: {error}")[:300]
            why = f"its answer broke off, or never came ({said})"
            if type(error) is TimeoutError:
                why = f"no answer within {self.config.timeout_s:g} s"
            raise self._broken(question, why, sent=sent) from None
        return answer.written(self._cost(question, answer))

    def _headers(self, question: Question, secret: str) -> dict[str, str]:
        headers = {
            "content-type": JSON_TYPE,
            "accept": f"{JSON_TYPE}, {STREAM}",
            "accept-encoding": "identity",
        }
        if self.config.protocol == "openai":
            return {**headers, "authorization": f"Bearer {secret}"}
        betas = {"anthropic-beta": question.betas} if question.betas else {}
        return {**headers, "x-api-key": secret, "anthropic-version": ANTHROPIC_VERSION, **betas}

    def _cost(self, question: Question, answer: Answer) -> int:
        prices = self._prices(question)
        if answer.tokens is None:
            return prices.most(question.input_most, question.output_most)
        return prices.cost(answer.tokens)

    def _broken(self, question: Question, why: str, *, sent: bool = True) -> Declined:
        """What is raised where there is no answer. If the question was sent, the provider may charge for one."""
        what = f"`{self._name}`: {why}"
        body = spelt(error_of(self.config.protocol, BROKEN, what, "upstream_broken"))
        answer = Answer(operation=question.wire.operation, status=BROKEN, kind=JSON_TYPE, body=body)
        return Declined(what, answer.written(self._cost(question, answer) if sent else None))


async def open_model(name: str, config: ModelConfig, kit: Kit) -> ModelSystem:
    """The system that this configuration declares. Raises Misuse for a base URL that is none."""
    origin, path, query = take_apart(config.base_url)
    if query is not None:
        raise BadCall(f"`base_url` of `{name}` has a query", fix="leave it out")
    if origin.scheme != "https" and not config.private:
        raise BadCall(f"`base_url` of `{name}` would send its credential in the clear", fix="use https")
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    client = kit.dialer.also(config.private).client([f"{host}:{origin.port}"], connections=CONNECTIONS)
    return ModelSystem(name, config, kit, origin, path.rstrip("/"), client)
