"""The verifier: is this log what was written, and what was signed? It needs this file, a bundle and a public key.

Rules
1. This file imports nothing of Holdfast. It says docs/log-format.md a second time, on its own, so that a mistake of the
   product is not repeated by its judge. It runs alone: `python verify.py FILE --vkey KEY`, where FILE is a bundle, an
   entry's proof, or the proof that a log has only grown.
2. Every text has one spelling. What could be spelt in two ways (JSON, base64, numbers) is written again and compared.
3. The first entry that breaks a rule is named. A head vouches for many entries at once: where its root is wrong, the
   first entry that no good head covers is named.
4. Without an anchor, a log cut at an older head looks whole, and so does one signed with a stolen key. In a bundle of
   one run, whoever made it can pass the run's last entries off as another run's.

A fault is of `form` (spelling), `place` (index, seq), `chain`, `record` (type), `succession` (what may follow what),
`epoch`, `blob`, `signature`, `root`, `shorter` (than a head), `unsigned` (too much without a head), `proof` (it does
not lead to the head), or of the `anchor`.
"""

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from hashlib import sha256
from typing import Final, TypeAlias, cast

CheckSignature: TypeAlias = Callable[[bytes, bytes, bytes], bool]
"""(public key, message, signature) → whether the Ed25519 signature is right."""

_BEHIND: Final = 2**65  # the order of a fault that is no entry's: behind those of entries


class Fault(Exception):
    """A broken rule. `index` and `node` (`RUN@BRANCH:SEQ`) name the entry, as far as it can be told."""

    def __init__(self, rule: str, what: str, index: int | None = None, node: str | None = None) -> None:
        super().__init__(what)
        self.rule, self.what, self.index, self.node = rule, what, index, node

    def __str__(self) -> str:
        place = "" if self.index is None else f"entry {self.index}{f' ({self.node})' if self.node else ''}: "
        return f"{place}{self.what} [{self.rule}]"


@dataclass(frozen=True, slots=True)
class Report:
    """What was looked at, and the first broken rule or None. `unsigned`: how many entries no good head covers."""

    entries: int
    branches: int
    blobs: int
    heads: int
    unsigned: int
    fault: Fault | None


def _object(data: bytes, *, sorted_keys: bool) -> dict[str, object]:
    """The JSON object that `data` spells in the only way: no white space, no needless escape, no name twice."""
    try:
        value = cast(object, json.loads(data.decode()))
        again = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=sorted_keys).encode()
    except (ValueError, RecursionError) as error:
        raise Fault("form", f"not JSON: {error}") from None
    if not isinstance(value, dict) or again != data:
        raise Fault("form", "not a JSON object in its one spelling")
    return cast("dict[str, object]", value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Fault("form", "something else stands where a text must stand")
    return value


def _natural(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**64:
        raise Fault("form", "something else stands where a number from 0 to 2^64-1 must stand")
    return value


def _digest(value: object) -> bytes:
    if not re.fullmatch("[0-9a-f]{64}", _text(value)):
        raise Fault("form", "something else stands where a digest in hexadecimal must stand")
    return bytes.fromhex(_text(value))


def _base64(value: object) -> bytes:
    try:
        data = b64decode(_text(value), validate=True)
    except ValueError:
        data = None
    if data is None or b64encode(data).decode() != value:
        raise Fault("form", "something else stands where base64 in its one spelling must stand")
    return data


_VKEY = re.compile(r"([^+\s]+)\+([0-9a-f]{8})\+(\S+)")
_DECIMAL: Final = "(0|[1-9][0-9]{0,19})"
_HEAD = re.compile(rf"(([^\n]+)\n{_DECIMAL}\n([^\n]+)\n)\n\u2014 ([^\n ]+) ([^\n ]+)\n")
_ANCHORED = re.compile(r"^((?:[^\n]+\n){3}\n\u2014 [^\n]+\n)\n", re.MULTILINE)


def _key(vkey: str) -> tuple[str, bytes, bytes]:
    parts = _VKEY.fullmatch(vkey)
    data = _base64(parts[3]) if parts else b""
    key_id = sha256(parts[1].encode() + b"\n" + data).digest()[:4] if parts else b""
    if parts is None or len(data) != 33 or data[0] != 1 or key_id.hex() != parts[2]:
        raise Fault("signature", "the verifier key is not `NAME+KEYID+BASE64`, not Ed25519, or does not fit its id")
    return parts[1], key_id, data[1:]


def _head(note: str, key: tuple[str, bytes, bytes], check: CheckSignature) -> tuple[int, bytes]:
    """The size and the root in a note that `key` signed."""
    parts = _HEAD.fullmatch(note)
    root, signed = (_base64(parts[4]), _base64(parts[6])) if parts else (b"", b"")
    if parts is None or len(root) != 32 or len(signed) != 68:
        raise Fault("form", "a head is not a signed note of three lines and one signature")
    name, key_id, public = key
    ours = (parts[2], parts[5], signed[:4]) == (name, name, key_id)
    if not ours or not check(public, parts[1].encode(), signed[4:]):
        raise Fault("signature", f"the head of size {parts[3]} is not signed by `{name}+{key_id.hex()}`")
    return int(parts[3]), root


_FOLLOWS: Final[dict[str, tuple[str, ...]]] = {
    "": ("hold", "intent", "refusal", "read", "planned", "adopted"),  # a read is a seal that names no intent
    "planned": ("hold", "intent", "refusal", "adopted"),
    "hold": ("approval", "refusal", "hold", "adopted"),
    "approval": ("approval", "intent", "read", "refusal", "hold", "adopted"),
    "intent": ("attempt", "seal", "settled"),
    "attempt": ("attempt", "seal", "settled"),
    **dict.fromkeys(("seal", "settled", "refusal", "adopted"), ()),
}
_TREE: Final = ("forked", "promoted", "abandoned")
_WORDS: Final = ("approval", "refusal", "settled", "signal", "cancelled", "issued", "revoked")
_UNCLAIMED: Final = (*_WORDS, *_TREE)  # others than the owner may place
_AT_BIRTH: Final = ("override", "adopted")  # and these, while nobody has claimed the branch yet
_OTHERS = re.compile(
    "started|claim|decision|draw|checkpoint|forked|override|promoted|abandoned|issued|revoked|divergence|signal"
    "|sleep|cancelled|finished"
)
_Call: TypeAlias = tuple[str, int]


@dataclass(slots=True)
class _Line:
    """A branch so far. `calls`: the type of each call's last record, and where its hold or intent is. `open`: the
    calls whose hold or intent may still be spoken of, by that place. `past`: of each entry of the branch's history its
    digest, and, if it is of a call, the call, the type and the place. `undoing`: the intents that take something
    back."""

    digest: bytes
    seq: int = 0
    epoch: int = 0
    finished: bool = False
    failed: bool = False
    calls: dict[_Call, tuple[str, int]] = field(default_factory=dict[_Call, tuple[str, int]])
    open: dict[int, _Call] = field(default_factory=dict[int, _Call])
    past: list[tuple[bytes, _Call | None, str, int]] = field(default_factory=list[tuple[bytes, _Call | None, str, int]])
    undoing: set[int] = field(default_factory=set[int])

    def fork(self, at: int, digest: bytes) -> "_Line":
        """A branch that stands on the entry at `at` of this one's history."""
        if not 0 < at <= len(self.past) or self.past[at - 1][0] != digest:
            raise Fault("chain", "the branch does not stand on the entry that it names")
        child = _Line(digest, at, past=self.past[:at], undoing={seq for seq in self.undoing if seq <= at})
        for _, call, name, place in child.past:
            if call is not None:
                child.note(call, name, place)
        return child

    def note(self, call: _Call, name: str, place: int) -> None:
        """A call's last record is now a `name`; its hold or intent is at `place`."""
        if name not in ("approval", "attempt"):
            self.open.pop(self.calls.get(call, ("", 0))[1], None)
        if name in ("hold", "intent"):
            self.open[place] = call
        self.calls[call] = (name, place)

    def take(self, seq: int, epoch: int, at_ms: int, key: bytes, body: bytes, digest: bytes) -> None:
        """Take the next entry. Raises Fault if it does not stand on those before it."""
        if seq != self.seq + 1:
            raise Fault("place", f"position {seq} of the branch stands where {self.seq + 1} must stand")
        if len(key) > 32 or max(seq, epoch, at_ms) >= 2**64 or min(epoch, at_ms) < 0:
            raise Fault("form", "its key, its epoch or its time is out of bounds")
        stamp = b"".join(number.to_bytes(8, "big") for number in (seq, epoch, at_ms)) + bytes((len(key),)) + key
        if sha256(b"holdfast/entry/1\0" + self.digest + stamp + body).digest() != digest:
            raise Fault("chain", "it is not what was written, or does not stand on the entry before it")
        self.seq, self.digest = seq, digest
        record = _object(body, sorted_keys=True)
        name = _text(record.get("t"))
        if not (name in _FOLLOWS or _OTHERS.fullmatch(name)) or not name or _natural(record.get("v")) != 1:
            raise Fault("record", f"a record of type `{name}`, version `{record.get('v')}` is not known")
        self._take_epoch(name, epoch)
        if self.finished and epoch and name != "claim" and not self._takes_back(name, record):
            raise Fault("succession", f"a `{name}` after the run had finished")
        call, place = self._take_call(name, record) if name in _FOLLOWS else (None, 0)
        self.past.append((digest, call, name, place))
        if name == "finished":
            self.finished, self.failed = True, record.get("answer") is None
        elif name == "claim" and self.failed:  # a run whose agent raised goes on from its log
            self.finished = self.failed = False

    def _take_epoch(self, name: str, epoch: int) -> None:
        if name == "claim" and epoch > self.epoch:
            self.epoch = epoch
        elif name == "claim" or epoch not in (self.epoch, 0) or (epoch == 0 and not self._unclaimed(name)):
            raise Fault("epoch", f"a `{name}` of epoch {epoch}, where epoch {self.epoch} holds the claim")

    def _unclaimed(self, name: str) -> bool:
        return name in _UNCLAIMED or (name in _AT_BIRTH and self.epoch == 0)

    def _takes_back(self, name: str, record: dict[str, object]) -> bool:
        """Whether a record may stand after the end: an intent that takes something back, and what that leads to."""
        if name == "intent":
            return record.get("undoes") is not None
        retry = re.fullmatch("retry/([0-9]{1,18})", str(record.get("name"))) if name == "sleep" else None
        about = int(retry[1]) if retry else record.get("intent")
        return isinstance(about, int) and about in self.undoing

    def _take_call(self, name: str, record: dict[str, object]) -> tuple[_Call, int]:
        about = record.get("hold" if name in ("approval", "refusal") else "intent")
        if about is None:
            call = (_text(record.get("identity")), _natural(record.get("n")))
        else:
            call = self.open.get(_natural(about))
        last, at = self.calls.get(call, ("", 0)) if call else ("nothing that is open", 0)
        step = "read" if name == "seal" and about is None else name
        if step not in _FOLLOWS.get(last, ()) or call is None:
            raise Fault("succession", f"a `{name}` of a call where {last or 'nothing'} came before")
        if name == "intent" and record.get("undoes") is not None:
            self.undoing.add(self.seq)
        place = self.seq if name in ("hold", "intent") else at
        self.note(call, name, place)
        return call, place


class Verifier:
    """Takes a log piece by piece (entries by index, heads oldest first) and judges it in `finish`.

    Heads must be signed by `vkey`. With `run`, only that run's entries are given, and `leaves` for those of others.
    """

    def __init__(self, check_signature: CheckSignature, vkey: str, run: str | None = None) -> None:
        self._check = check_signature
        self._key = _key(vkey)
        self._run = run
        self._lines: dict[str, _Line] = {}
        self._stretches: list[tuple[int, bytearray]] = []  # leaf hashes from an index on
        self._heads: list[tuple[int, bytes]] = []
        self._blobs: set[bytes] = set()
        self._faults: list[tuple[int, Fault]] = []
        self.next = self.entries = 0

    def entry(
        self, index: int, branch: str, seq: int, epoch: int, at_ms: int, key: bytes, body: bytes, digest: bytes
    ) -> None:
        """Take the next entry. Behind a broken rule, entries are only hashed: what they say proves nothing any more."""
        name = branch.encode()
        if index != self.next and (self._run is None or index < self.next):
            self.blame(self.next, Fault("place", f"entry {index} stands where {self.next} must stand", self.next))
        if all(order == _BEHIND for order, _ in self._faults):
            try:
                run, _, line = branch.partition("@")
                if not run or not line or len(name) > 255 or run != (self._run or run):
                    raise Fault("place", f"the branch `{branch[:80]}` cannot be here")
                if branch not in self._lines:
                    self._lines[branch] = self._begun(branch, body)
                self._lines[branch].take(seq, epoch, at_ms, key, body, digest)
            except Fault as fault:
                self.blame(index, Fault(fault.rule, fault.what, index, f"{branch}:{seq}"))
        if index != self.next or not self._stretches:
            self._stretches.append((index, bytearray()))
        leaf = b"\0holdfast/leaf/1\0" + bytes((len(name) % 256,)) + name + digest
        self._stretches[-1][1].extend(sha256(leaf).digest())
        self.next, self.entries = index + 1, self.entries + 1

    def _begun(self, branch: str, body: bytes) -> _Line:
        """A new branch, whose first record this is: it stands on nothing, or on an entry of another branch."""
        run, _, line = branch.partition("@")
        try:
            record = _object(body, sorted_keys=True)
        except Fault:
            record = {}
        if record.get("t") != "forked" or record.get("branch") != line:
            return _Line(sha256(b"holdfast/branch/1\0" + branch.encode()).digest())
        parent = self._lines.get(f"{run}@{_text(record.get('parent'))}")
        if parent is None:
            raise Fault("chain", "the branch that it stands on is not here")
        return parent.fork(_natural(record.get("at")), _digest(record.get("digest")))

    def leaves(self, index: int, hashes: bytes) -> None:
        """Take the leaf hashes (32 bytes each) of other runs' entries, from `index` on."""
        if self._run is None or not hashes or len(hashes) % 32:
            self.blame(_BEHIND, Fault("form", "leaf hashes that do not belong here, or are cut"))
        self._stretches.append((index, bytearray(hashes)))

    def blob(self, digest: bytes, data: bytes) -> None:
        """Take a whole payload."""
        if sha256(data).digest() != digest or digest in self._blobs:
            self.blame(_BEHIND, Fault("blob", f"payload {digest.hex()} has other bytes, or is here twice"))
        self._blobs.add(digest)

    def head(self, note: str) -> None:
        """Take a published head (a note)."""
        try:
            size, root = _head(note, self._key, self._check)
            if self._heads and size < self._heads[-1][0]:
                raise Fault("form", f"a head of size {size} after one of size {self._heads[-1][0]}")
            self._heads.append((size, root))
        except Fault as fault:
            self.blame(_BEHIND, fault)

    def end(self, entries: int, blobs: int, heads: int) -> None:
        """Compare with what a bundle says that it has."""
        if (entries, blobs, heads) != (self.entries, len(self._blobs), len(self._heads)):
            self.blame(_BEHIND, Fault("form", "the bundle counts other entries, blobs or heads than it has"))

    def blame(self, order: int, fault: Fault) -> None:
        """Note a fault. Of all, the one of the lowest `order`, which is that of the entry to blame, is reported."""
        self._faults.append((order, fault))

    def finish(self, anchor: str | None = None, max_unsigned: int = 1000) -> Report:
        """Judge what was taken; with `anchor` (the file's text), also against the newest complete note in it."""
        anchored = self._anchored(anchor) if anchor is not None else []
        total, roots = self._roots({size for size, _ in self._heads + anchored})
        good = 0
        for size, root in self._heads:
            if roots.get(size) == root:
                good = size
            elif size > total:
                self.blame(total, Fault("shorter", f"a head covers {size} entries, but {total} are here", total))
            else:
                self.blame(size - 1, Fault("root", f"it, or one up to {size - 1}, is not what was signed", good))
        for size, root in anchored:
            if roots.get(size) != root:
                order, at = (total, total) if size > total else (_BEHIND, None)
                self.blame(order, Fault("anchor", f"the anchor covers {size} entries: not those of these {total}", at))
        unsigned = total - good
        if unsigned > max_unsigned:
            self.blame(_BEHIND, Fault("unsigned", f"no head covers it and what follows, {unsigned} entries", good))
        counts = (self.entries, len(self._lines), len(self._blobs), len(self._heads))
        return Report(*counts, unsigned, min(self._faults, key=lambda each: each[0])[1] if self._faults else None)

    def _anchored(self, anchor: str) -> list[tuple[int, bytes]]:
        try:
            return [_head((_ANCHORED.findall(anchor) or [""])[-1], self._key, self._check)]
        except Fault as fault:
            self.blame(_BEHIND, Fault("anchor", f"in the newest complete note of the anchor, {fault.what}"))
            return []

    def _roots(self, sizes: set[int]) -> tuple[int, dict[int, bytes]]:
        """How many entries there are up to the first gap, and the roots of the tree at `sizes`."""
        total, peaks, roots = 0, list[bytes](), {0: sha256(b"").digest()}
        for start, hashes in sorted(self._stretches, key=lambda each: each[0]):
            if start != total:
                self.blame(total, Fault("place", "it is missing, or here twice", total))
                break
            for at in range(0, len(hashes), 32):
                hashed, below = bytes(hashes[at : at + 32]), total
                while below & 1:
                    hashed, below = sha256(b"\1" + peaks.pop() + hashed).digest(), below >> 1
                peaks.append(hashed)
                total += 1
                if total in sizes:
                    roots[total] = reduce(lambda right, left: sha256(b"\1" + left + right).digest(), reversed(peaks))
        return total, roots


_SECTIONS: Final[Mapping[str, Mapping[str, Callable[[object], object]]]] = {
    "entry": {"index": _natural, "branch": _text, "seq": _natural, "epoch": _natural, "at_ms": _natural}
    | {"key": _base64, "body": _base64, "digest": _digest},
    "leaf": {"from": _natural, "hashes": _base64},
    "blob": {"digest": _digest, "data": _base64},
    "head": {"head": _text},
    "end": {"entries": _natural, "blobs": _natural, "heads": _natural},
}


def _parsed(line: bytes, at: int) -> tuple[int, list[object]]:
    """The section and the fields of a line that stands behind one of section `at`."""
    found = _object(line[:-1] if line.endswith(b"\n") else b"", sorted_keys=False)
    name, inner = next(iter(found.items()), ("", None))
    section = list(_SECTIONS).index(name) if name in _SECTIONS else -1
    if section < at or at == 4 or len(found) != 1:
        raise Fault("form", f"a line `{name[:40]}` that cannot stand here")
    values = cast("dict[str, object]", inner if isinstance(inner, dict) and name != "head" else found)
    if values.keys() != _SECTIONS[name].keys():
        raise Fault("form", f"a line `{name}` with missing or additional fields")
    return section, [read(values[field]) for field, read in _SECTIONS[name].items()]


def _opened(line: bytes, check_signature: CheckSignature, vkey: str | None) -> Verifier:
    header = _object(line[:-1] if line.endswith(b"\n") else b"", sorted_keys=False)
    if header.keys() != {"holdfast", "origin", "vkey", "scope", "run"} or header["holdfast"] != "bundle/1":
        raise Fault("form", "the first line is not the header of a bundle of version 1")
    key, scope, run = _text(header["vkey"]), header["scope"], _text(header["run"] or "") or None
    if scope != ("run" if run else "all") or header["run"] != run:
        raise Fault("form", "the header's scope is not that of its run")
    if vkey not in (None, key) or header["origin"] != key.partition("+")[0]:
        raise Fault("signature", "the bundle says that it is signed with another key")
    return Verifier(check_signature, key, run)


def verify_bundle(
    lines: Iterable[bytes],
    check_signature: CheckSignature,
    vkey: str | None = None,
    anchor: str | None = None,
    max_unsigned: int = 1000,
) -> Report:
    """Judge an exported bundle. Without `vkey`, the bundle's own is believed: it may then agree only with itself."""
    rest = iter(lines)
    try:
        verifier = _opened(next(rest, b""), check_signature, vkey)
    except Fault as fault:
        return Report(0, 0, 0, 0, 0, fault)
    at, number = 0, 1
    takers = (verifier.entry, verifier.leaves, verifier.blob, verifier.head, verifier.end)
    try:
        for number, line in enumerate(rest, 2):  # noqa: B007
            at, fields = _parsed(line, at)
            cast("Callable[..., None]", takers[at])(*fields)
        if at != 4:
            raise Fault("form", "the bundle ends too early")
    except Fault as fault:
        index = verifier.next if at == 0 else None
        verifier.blame(_BEHIND if index is None else index, Fault(fault.rule, f"line {number}: {fault.what}", index))
    return verifier.finish(anchor, max_unsigned)


# --- proofs ---

PROOF: Final = "c2sp.org/tlog-proof@v1"
_PROOF = re.compile(rf"{re.escape(PROOF)}\nextra ([^\n]+)\nindex {_DECIMAL}\n((?:[^\n]+\n)*)\n((?s:.*))")
_GROWTH = re.compile(rf"old {_DECIMAL}\n((?:[^\n]+\n)*)\n((?s:.*))")
_ENTRY: Final = ("branch", "seq", "epoch", "at_ms", "key", "body", "previous")


@dataclass(frozen=True, slots=True)
class Proven:
    """What a proof shows: `node` (`RUN@BRANCH:SEQ`) with this `body` is entry `index` of the first `size`; of a log
    that has grown, only sizes (`index` is the old one)."""

    index: int
    size: int
    node: str | None = None
    body: bytes = b""


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()


def _up(hashed: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The root to which a path leads from a leaf: RFC 6962 §2.1.1, taken apart from the root down."""
    if size == 1 or not path:
        if size != 1 or path:
            raise Fault("proof", "the path is too long or too short", index)
        return hashed
    half = 1 << ((size - 1).bit_length() - 1)
    if index < half:
        return _node(_up(hashed, index, half, path[:-1]), path[-1])
    return _node(path[-1], _up(hashed, index - half, size - half, path[:-1]))


def _grown(root: bytes, old: int, size: int, path: list[bytes], known: bool) -> tuple[bytes, bytes]:
    """The roots of the old and the new tree, as a path of RFC 6962 §2.1.2 has them; `root` is taken for the old one."""
    if old == size and known and not path:
        return root, root
    if not path or (old == size and (known or len(path) != 1)):
        raise Fault("proof", "the path is too long or too short")
    if old == size:
        return path[0], path[0]
    half = 1 << ((size - 1).bit_length() - 1)
    if old <= half:
        before, after = _grown(root, old, half, path[:-1], known)
        return before, _node(after, path[-1])
    before, after = _grown(root, old - half, size - half, path[:-1], False)
    return _node(path[-1], before), _node(path[-1], after)


def _hashes(lines: str) -> list[bytes]:
    path = [_base64(line) for line in lines.split("\n")[:-1]]  # not splitlines: it knows other ends of lines
    if len(path) > 64 or any(len(each) != 32 for each in path):
        raise Fault("form", "a path is of at most 64 hashes of 32 bytes")
    return path


def verify_proof(proof: str, check_signature: CheckSignature, vkey: str) -> Proven:
    """Judge an entry's proof. Raises Fault if it does not show that the entry in it is in the log of `vkey`."""
    parts = _PROOF.fullmatch(proof)
    if parts is None or int(parts[2]) >= 2**64:
        raise Fault("form", "not a proof with an entry, its index, a path and a head")
    index, path, extra = int(parts[2]), _hashes(parts[3]), _object(_base64(parts[1]), sorted_keys=False)
    said = cast("dict[str, object]", extra.get("entry")) if isinstance(extra.get("entry"), dict) else {}
    if tuple(extra) != ("entry",) or tuple(said) != _ENTRY:
        raise Fault("form", "the entry of a proof with missing or additional fields")
    name, seq, epoch, at_ms = _text(said["branch"]), *(_natural(said[each]) for each in _ENTRY[1:4])
    key, body = _base64(said["key"]), _base64(said["body"])
    if not 0 < len(name.encode()) < 256 or len(key) > 32:
        raise Fault("form", "its branch or its key is out of bounds", index)
    stamp = b"".join(number.to_bytes(8, "big") for number in (seq, epoch, at_ms)) + bytes((len(key),)) + key
    digest = sha256(b"holdfast/entry/1\0" + _digest(said["previous"]) + stamp + body).digest()
    size, root = _head(parts[4], _key(vkey), check_signature)
    leaf = sha256(b"\0holdfast/leaf/1\0" + bytes((len(name.encode()),)) + name.encode() + digest).digest()
    if index >= size or _up(leaf, index, size, path) != root:
        raise Fault("proof", f"it is not entry {index} of the {size} that were signed", index, f"{name}:{seq}")
    return Proven(index, size, f"{name}:{seq}", body)


def verify_growth(growth: str, anchor: str, check_signature: CheckSignature, vkey: str) -> Proven:
    """Judge the proof that a log has only grown since a head that an `anchor` (the file's text) holds. Raises Fault."""
    parts = _GROWTH.fullmatch(growth)
    if parts is None or int(parts[1]) >= 2**64:
        raise Fault("form", "not an old size, a path and a head")
    old, path, key = int(parts[1]), _hashes(parts[2]), _key(vkey)
    size, root = _head(parts[3], key, check_signature)
    noted = [note for note in _ANCHORED.findall(anchor) if note.split("\n")[1] == str(old)]
    if old and not noted:
        raise Fault("anchor", f"the anchor holds no head over {old} entries")
    before = _head(noted[-1], key, check_signature)[1] if old else sha256(b"").digest()
    if old > size or (old == 0 and path):
        raise Fault("proof", f"the log has {size} entries, and had {old}")
    if old and _grown(before, old, size, path, True) != (before, root):
        raise Fault("proof", f"the first {old} entries are not those that the anchor knows")
    return Proven(old, size)


if __name__ == "__main__":
    import argparse
    import sys
    from pathlib import Path

    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    def ed25519(public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Whether the signature is right."""
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True

    parser = argparse.ArgumentParser(description="Verify an exported Holdfast bundle, or a proof, offline.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--vkey", help="the log's verifier key; without it, nothing shows who signed")
    parser.add_argument("--anchor", type=Path, help="the anchor file; without it, a cut at an older head is not seen")
    options = parser.parse_args()
    kept = options.anchor.read_bytes().decode(errors="replace") if options.anchor else None
    with options.bundle.open("rb") as bundle:
        begins = bundle.peek(8)
        try:
            if begins.startswith(PROOF[:4].encode()):
                said: object = verify_proof(bundle.read().decode(errors="replace"), ed25519, options.vkey or "")
            elif begins.startswith(b"old "):
                text = bundle.read().decode(errors="replace")
                said = verify_growth(text, kept or "", ed25519, options.vkey or "")
            else:
                said = verdict = verify_bundle(bundle, ed25519, options.vkey, kept)
                if verdict.fault:
                    raise verdict.fault
        except Fault as fault:
            sys.stdout.write(f"BAD: {fault}\n")
            sys.exit(1)
    sys.stdout.write(f"OK: {said}\n")
