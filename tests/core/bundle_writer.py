"""A second hand that writes logs: entries, heads and bundles as docs/log-format.md says, and nothing of the product."""

import copy
import hashlib
import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SEED = bytes(range(32))
OTHER_SEED = bytes(range(1, 33))


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def base64(data: bytes) -> str:
    return b64encode(data).decode()


def check_signature(public_key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def line(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def body(t: str, **fields: object) -> bytes:
    return json.dumps({"t": t, "v": 1, **fields}, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def mth(leaves: list[bytes]) -> bytes:
    """The Merkle Tree Hash of RFC 6962 §2.1 over leaf hashes."""
    if len(leaves) < 2:
        return leaves[0] if leaves else sha256(b"")
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:]))


@dataclass
class Row:
    branch: str
    seq: int
    epoch: int
    at_ms: int
    key: bytes
    body: bytes
    digest: bytes = b""

    def leaf(self) -> bytes:
        name = self.branch.encode()
        return sha256(b"\x00holdfast/leaf/1\x00" + len(name).to_bytes(1, "big") + name + self.digest)


@dataclass
class Writer:
    """A whole log in memory. `lines` is its bundle; attacks change `rows`, `heads`, `seed` and say `rechain`."""

    seed: bytes = SEED
    rows: list[Row] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    blobs: list[bytes] = field(default_factory=list)
    origin: str = "holdfast.local/00112233445566778899aabbccddeeff"

    def copy(self) -> "Writer":
        return copy.deepcopy(self)

    @property
    def public_key(self) -> bytes:
        return Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw()

    @property
    def key_id(self) -> bytes:
        return sha256(self.origin.encode() + b"\n\x01" + self.public_key)[:4]

    @property
    def vkey(self) -> str:
        encoded = base64(b"\x01" + self.public_key)
        return f"{self.origin}+{self.key_id.hex()}+{encoded}"

    def place(self, branch: str, written: bytes, *, epoch: int, key: bytes = b"") -> int:
        """Write an entry; its seq."""
        seq = 1 + sum(row.branch == branch for row in self.rows)
        self.rows.append(Row(branch, seq, epoch, 1_700_000_000_000 + len(self.rows), key, written))
        self.rechain(branch)
        return seq

    def rechain(self, *branches: str) -> None:
        """Number and chain the entries of these branches, or of all, anew."""
        for branch in branches or {row.branch for row in self.rows}:
            digest = sha256(b"holdfast/branch/1\x00" + branch.encode())
            for seq, row in enumerate([row for row in self.rows if row.branch == branch], 1):
                row.seq = seq
                numbers = b"".join(number.to_bytes(8, "big") for number in (row.seq, row.epoch, row.at_ms))
                keyed = len(row.key).to_bytes(1, "big") + row.key
                row.digest = digest = sha256(b"holdfast/entry/1\x00" + digest + numbers + keyed + row.body)

    def root(self, size: int) -> bytes:
        return mth([row.leaf() for row in self.rows[:size]])

    def sign(self, text: str) -> str:
        made = Ed25519PrivateKey.from_private_bytes(self.seed).sign(text.encode())
        return f"{text}\n\u2014 {self.origin} {base64(self.key_id + made)}\n"

    def publish(self, size: int | None = None) -> None:
        size = len(self.rows) if size is None else size
        self.heads.append(self.sign(f"{self.origin}\n{size}\n{base64(self.root(size))}\n"))

    def republish(self, *sizes: int) -> None:
        self.heads.clear()
        for size in sizes:
            self.publish(size)

    @property
    def anchor(self) -> str:
        return "".join(f"{head}\n" for head in self.heads)

    def payload(self, data: bytes) -> list[object]:
        if data not in self.blobs:
            self.blobs.append(data)
        return [sha256(data).hex(), "bytes", len(data)]

    def lines(self, run: str | None = None) -> list[bytes]:
        """The bundle: of everything, or of one run."""
        ours: Callable[[Row], bool] = lambda row: run is None or row.branch.startswith(f"{run}@")  # noqa: E731
        scope = "all" if run is None else "run"
        made = [{"holdfast": "bundle/1", "origin": self.origin, "vkey": self.vkey, "scope": scope, "run": run}]
        made += [{"entry": self._entry(index, row)} for index, row in enumerate(self.rows) if ours(row)]
        made += self._leaves([None if ours(row) else row.leaf() for row in self.rows])
        made += [{"blob": {"digest": sha256(data).hex(), "data": base64(data)}} for data in self.blobs]
        made += [{"head": head} for head in self.heads]
        entries = sum(ours(row) for row in self.rows)
        made += [{"end": {"entries": entries, "blobs": len(self.blobs), "heads": len(self.heads)}}]
        return [line(each) for each in made]

    @staticmethod
    def _entry(index: int, row: Row) -> dict[str, object]:
        return {
            "index": index,
            "branch": row.branch,
            "seq": row.seq,
            "epoch": row.epoch,
            "at_ms": row.at_ms,
            "key": base64(row.key),
            "body": base64(row.body),
            "digest": row.digest.hex(),
        }

    @staticmethod
    def _leaves(hidden: list[bytes | None]) -> list[dict[str, object]]:
        """Runs of leaf hashes, each as long as it can be."""
        made: list[dict[str, object]] = []
        stretch: list[bytes] = []
        for index, leaf in enumerate([*hidden, None]):
            if leaf is not None:
                stretch.append(leaf)
            elif stretch:
                made.append({"leaf": {"from": index - len(stretch), "hashes": base64(b"".join(stretch))}})
                stretch = []
        return made


@dataclass
class Story:
    """One branch that is written on: `options` are the entries that may honestly come next."""

    log: Writer
    branch: str
    epoch: int = 0
    calls: int = 0
    started: bool = False
    finished: bool = False
    intents: dict[int, tuple[str, int]] = field(default_factory=dict)
    holds: dict[int, tuple[str, int]] = field(default_factory=dict)
    approved: dict[int, tuple[str, int]] = field(default_factory=dict)

    def go_on(self, choice: int) -> None:
        options = self.options()
        options[choice % len(options)]()

    def options(self) -> list[Callable[[], object]]:
        if self.epoch == 0:
            return [self.claim]
        if not self.started:
            return [self.start]
        placed: list[Callable[[], object]] = [self.signal, self.cancel]
        placed += [lambda at=at: self.approve(at) for at in self.holds]
        placed += [lambda at=at: self.refuse(at, epoch=0) for at in {**self.holds, **self.approved}]
        placed += [lambda at=at: self.settle(at) for at in self.intents]
        if self.finished:
            return [*placed, self.claim]
        own: list[Callable[[], object]] = [
            self.decide,
            self.draw,
            self.read,
            self.ask,
            self.intend,
            self.deny,
            self.sleep,
        ]
        own += [self.checkpoint, self.diverge, self.claim]
        own += [lambda at=at: self.attempt(at) for at in self.intents]
        own += [lambda at=at: self.seal(at) for at in self.intents]
        own += [lambda at=at: self.ask(at) for at in {**self.holds, **self.approved}]
        own += [lambda at=at: self.intend(at) for at in self.approved]
        own += [lambda at=at: self.read(at) for at in self.approved]
        return [*own, *placed, self.finish]

    def put(self, t: str, *, epoch: int | None = None, keyed: bytes = b"", **fields: object) -> int:
        return self.log.place(self.branch, body(t, **fields), epoch=self.epoch if epoch is None else epoch, key=keyed)

    def call(self, at: int | None) -> tuple[str, int]:
        """The call that was held at `at` or, for None, a new one."""
        if at is not None:
            return self.approved.pop(at) if at in self.approved else self.holds.pop(at)
        self.calls += 1
        return sha256(str(self.calls // 2).encode()).hex(), self.calls % 2

    @property
    def some(self) -> list[object]:
        return self.log.payload(f"payload {self.calls % 3}".encode())

    def claim(self) -> None:
        self.epoch += 1 + self.calls % 2
        self.put("claim", worker="host:7", previous="released")

    def start(self) -> None:
        self.started = True
        self.put("started", agent="module:agent", input=self.some, keyed=b"started")

    def decide(self) -> None:
        self.put("decision", lane="main", name="ask", request="00", n=0, asked=self.some, answer=self.some)

    def draw(self) -> None:
        self.put("draw", name="time", n=0, value="1.5")

    def sleep(self) -> None:
        self.put("sleep", name="sleep", n=0, until_ms=2**53 + 1)

    def checkpoint(self) -> None:
        self.put("checkpoint", state=self.some, workspace="ab" * 32, services=["serve"], labels=[])

    def diverge(self) -> None:
        self.put("divergence", asked="tool", why="“why” \\ \x7f\n", unclaimed=[1, 2])

    def signal(self) -> None:
        self.put("signal", epoch=0, name="go", value=self.some, by="ann")

    def cancel(self) -> None:
        self.put("cancelled", epoch=0, by="ann", reason="enough")

    def finish(self) -> None:
        self.finished = True
        self.put("finished", answer=self.some, error=None)

    def read(self, at: int | None = None) -> None:
        identity, n = self.call(at)
        outcome = {"happened": self.some, "etag": None}
        self.put("seal", intent=None, tool="t.read", identity=identity, n=n, args=self.some, outcome=outcome)

    def ask(self, at: int | None = None) -> int:
        identity, n = self.call(at)
        asked = {"args": self.some, "call": "00", "contract": "00", "level": "one", "why": "policy", "expires_ms": 1}
        seq = self.put("hold", tool="t.send", kind="irreversible", identity=identity, n=n, **asked)
        self.holds[seq] = (identity, n)
        return seq

    def approve(self, at: int) -> int:
        self.approved[at] = self.holds.pop(at)
        return self.put("approval", epoch=0, hold=at, call="00", by="bob", expires_ms=2)

    def refuse(self, at: int, *, epoch: int | None = None) -> None:
        identity, n = self.call(at)
        self.put("refusal", epoch=epoch, hold=at, tool="t.send", identity=identity, n=n, by="bob", reason="no")

    def deny(self) -> None:
        identity, n = self.call(None)
        self.put("refusal", hold=None, tool="t.send", identity=identity, n=n, by="policy", reason="no")

    def intend(self, at: int | None = None) -> int:
        identity, n = self.call(at)
        asked = {"args": self.some, "key": "00", "contract": "00", "level": "none", "resource": None, "blast": None}
        named = {"tool": "t.send", "kind": "irreversible", "identity": identity, "n": n, "approval": at, "undoes": None}
        seq = self.put("intent", keyed=bytes.fromhex(identity), **asked, **named)
        self.intents[seq] = (identity, n)
        return seq

    def attempt(self, at: int) -> None:
        self.put("attempt", intent=at, number=2, why="doubt")

    def seal(self, at: int) -> None:
        identity, n = self.intents.pop(at)
        outcome = {"happened": self.some, "etag": "v1"}
        self.put("seal", intent=at, tool="t.send", identity=identity, n=n, args=None, outcome=outcome)

    def settle(self, at: int) -> None:
        self.intents.pop(at)
        self.put("settled", epoch=0, intent=at, outcome={"not_happened": "asked"}, by="bob")
