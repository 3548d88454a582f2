"""A credential is released by a durable intent, and by nothing else: each test tries to get one without."""

import asyncio
import copy
import errno
import json
import os
import pickle
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast import Run, agent, key, open_store, tool
from holdfast.core.codec import encode
from holdfast.core.effect import Encoding, Happened, Kind, NotHappened, Payload
from holdfast.core.record import Forked, Intent, Record, Seal, Settled
from holdfast.errors import Corrupt, Misuse, Refused, StoreFull
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.gateway.family import TREE_KEY
from holdfast.gateway.receipt import Receipt, for_effect, for_read
from holdfast.gateway.upstreams import Reply
from holdfast.gateway.upstreams.python import PythonUpstream
from holdfast.gateway.vault import Vault
from holdfast.store import Draft, Store
from holdfast.store.memory import MemoryStore
from tests.store.shelf import ROOT, Shelf

SECRET = "s3cr3t-canary-77"
KEY = "0f" * 16
IDENTITY = "ab" * 32
TOOL = "crm.update"
BRANCH = "r@main"
PAYLOAD = Payload("00" * 32, Encoding.JSON, 2)


def intent(tool_name: str = TOOL, own: str = KEY) -> Intent:
    return Intent(
        tool=tool_name, kind=Kind.IRREVERSIBLE, identity=IDENTITY, n=0, args=PAYLOAD, key=own, contract="c" * 32,
        level="none", resource=None, blast=None, approval=None, undoes=None,
    )  # fmt: skip


async def place(store: Store, *records: Record, branch: str = BRANCH) -> int:
    """Place records as the mediator does; the seq of the first."""
    grant = await store.claim(branch)
    drafts = [Draft(bytes.fromhex(IDENTITY), encode(record)) for record in records]
    placed = await store.append(branch, drafts, epoch=grant.epoch, barrier=True, release=True)
    return placed[0].seq


def vault_on(store: Store, folder: Path, **options: object) -> Vault:
    path = folder / "token"
    path.write_text(SECRET)
    path.chmod(0o600)
    references = {"crm": "file:token", "mail": "file:token"}
    return Vault(references, store, uses={"crm": {"crm"}, "mail": {"mail"}}, folder=folder, **options)  # type: ignore[arg-type]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def vault(store: MemoryStore, tmp_path: Path) -> Vault:
    return vault_on(store, tmp_path)


async def stays_closed(vault: Vault, receipt: object, name: str = "crm") -> str:
    with pytest.raises(Refused) as refused:
        await vault.open(name, receipt)  # type: ignore[arg-type]
    told = "".join(traceback.format_exception(refused.value))
    assert SECRET not in told
    return refused.value.what


# --- what opens ---


async def test_a_durable_intent_opens_its_credential(vault: Vault, store: MemoryStore) -> None:
    seq = await place(store, intent())
    assert (await vault.open("crm", for_effect(BRANCH, seq, TOOL, KEY))).reveal() == SECRET


async def test_a_read_opens_the_credential_of_its_system(vault: Vault) -> None:
    assert (await vault.open("crm", for_read(BRANCH, "crm.list"))).reveal() == SECRET


async def test_a_call_that_is_sent_again_opens_with_the_same_receipt(vault: Vault, store: MemoryStore) -> None:
    seq = await place(store, intent())
    receipt = for_effect(BRANCH, seq, TOOL, KEY)
    await vault.open("crm", receipt)
    assert (await vault.open("crm", receipt)).reveal() == SECRET


def test_the_mediators_own_receipt_opens_while_the_call_is_carried_out_and_not_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, Receipt]] = []
    original = PythonUpstream.perform
    with open_store(f"sqlite:///{tmp_path}/runs.db?anchor=none") as house:
        vault = vault_on(house.store, tmp_path)

        async def perform(self: PythonUpstream, args: bytes | None, receipt: Receipt) -> Reply:
            seen.append(((await vault.open("crm", receipt)).reveal(), receipt))
            return await original(self, args, receipt)

        monkeypatch.setattr(PythonUpstream, "perform", perform)

        @tool(kind="irreversible", name="crm.note")
        async def note() -> str:
            return key()

        @agent
        async def program(run: Run, task: object) -> str:
            return await note()

        house.run(program, None, id="r")
        assert [secret for secret, _ in seen] == [SECRET]
        assert asyncio.run(stays_closed(vault, seen[0][1])) == "the credential `crm` stays closed: the call is sealed"


# --- what does not ---


async def test_a_name_alone_opens_nothing(vault: Vault) -> None:
    class Lookalike:
        branch, seq, tool, key, mark, read, genuine = BRANCH, 0, "crm.list", "", b"", True, True

    for receipt in (None, "crm", 0, Lookalike()):
        assert "no receipt of ours" in await stays_closed(vault, receipt)


async def test_a_receipt_made_by_hand_opens_nothing(vault: Vault, store: MemoryStore) -> None:
    seq = await place(store, intent())
    marks = (b"", bytes(32), for_read(BRANCH, TOOL).mark, for_effect(BRANCH, seq + 1, TOOL, KEY).mark, "text")
    for mark in marks:
        assert "no receipt of ours" in await stays_closed(vault, Receipt(BRANCH, seq, TOOL, KEY, mark))  # type: ignore[arg-type]


async def test_a_receipt_that_says_of_itself_that_it_is_genuine_opens_nothing(vault: Vault) -> None:
    class Liar(Receipt):
        @property
        def genuine(self) -> bool:
            return True

    assert "no receipt of ours" in await stays_closed(vault, Liar(BRANCH, 0, "crm.list", "", b""))


async def test_a_receipt_cannot_be_turned_into_another(vault: Vault, store: MemoryStore) -> None:
    seq = await place(store, intent())
    receipt = for_effect(BRANCH, seq, TOOL, KEY)
    for other in ({"tool": "crm.delete"}, {"branch": "other@main"}, {"seq": 0}, {"key": "1e" * 16}):
        assert "no receipt of ours" in await stays_closed(vault, replace(receipt, **other))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("branch", "name", "own"),
    [("other@main", TOOL, KEY), (BRANCH, "crm.delete", KEY), (BRANCH, TOOL, "1e" * 16), ("r@b2", TOOL, KEY)],
    ids=["another run", "another tool", "another call", "a branch that is not"],
)
async def test_a_genuine_receipt_of_what_is_not_in_the_log_opens_nothing(
    vault: Vault, store: MemoryStore, branch: str, name: str, own: str
) -> None:
    seq = await place(store, intent())
    await place(store, Settled(intent=seq, outcome=NotHappened("no"), by="me"), branch="other@main")
    assert "log" in await stays_closed(vault, for_effect(branch, seq, name, own))


@pytest.mark.parametrize(
    "receipt", [for_read(BRANCH, "mail.list"), for_read(BRANCH, "crmx.list"), for_read(BRANCH, "")]
)
async def test_a_receipt_of_another_system_opens_nothing(vault: Vault, receipt: Receipt) -> None:
    assert "it is not for" in await stays_closed(vault, receipt)


async def test_an_intent_of_another_system_opens_nothing(vault: Vault, store: MemoryStore) -> None:
    seq = await place(store, intent("mail.send"))
    receipt = for_effect(BRANCH, seq, "mail.send", KEY)
    assert (await vault.open("mail", receipt)).reveal() == SECRET
    assert "it is not for `mail`" in await stays_closed(vault, receipt)


async def test_a_credential_that_is_for_no_system_opens_for_none(store: MemoryStore, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(SECRET)
    (tmp_path / "token").chmod(0o600)
    vault = Vault({"crm": "file:token"}, store, uses={}, folder=tmp_path)
    assert "it is not for `crm`" in await stays_closed(vault, for_read(BRANCH, "crm.list"))


async def test_a_credential_that_is_not_declared_does_not_open(vault: Vault) -> None:
    assert await stays_closed(vault, for_read(BRANCH, "crm.list"), "other") == "there is no credential `other`"


@pytest.mark.parametrize("outcome", [Happened(PAYLOAD), NotHappened("turned away")])
@pytest.mark.parametrize("how", ["sealed", "settled"])
async def test_a_call_that_has_its_seal_opens_nothing_any_more(
    vault: Vault, store: MemoryStore, how: str, outcome: Happened[Payload] | NotHappened
) -> None:
    seq = await place(store, intent())
    if how == "sealed":
        end: Record = Seal(intent=seq, tool=TOOL, identity=IDENTITY, n=0, args=None, outcome=outcome)
    else:
        end = Settled(intent=seq, outcome=outcome, by="ada")
    await place(store, end)
    assert "the call is sealed" in await stays_closed(vault, for_effect(BRANCH, seq, TOOL, KEY))


async def test_the_seal_of_another_call_closes_nothing(vault: Vault, store: MemoryStore) -> None:
    first = await place(store, intent(own="1e" * 16))
    seq = await place(store, intent())
    await place(store, Settled(intent=first, outcome=NotHappened("no"), by="ada"))
    assert (await vault.open("crm", for_effect(BRANCH, seq, TOOL, KEY))).reveal() == SECRET


async def test_an_intent_that_a_branch_has_inherited_opens_there_until_it_is_sealed_there(
    vault: Vault, store: MemoryStore
) -> None:
    seq = await place(store, intent())
    [entry] = await store.read(BRANCH, after=seq - 1, upto=seq)
    forked = Forked(
        branch="b2", parent="main", at=seq, digest=entry.digest.hex(), kind="recovery", group=None, by="ada", why=""
    )
    await store.append("r@b2", [Draft(TREE_KEY, encode(forked))], epoch=0, barrier=True, stands_on=entry)
    receipt = for_effect("r@b2", seq, TOOL, KEY)
    assert (await vault.open("crm", receipt)).reveal() == SECRET
    await place(
        store, Seal(intent=seq, tool=TOOL, identity=IDENTITY, n=0, args=None, outcome=NotHappened("no")), branch="r@b2"
    )
    assert "the call is sealed" in await stays_closed(vault, receipt)


FULL = """
import asyncio, json, pathlib, resource, signal, sys
from holdfast.errors import Refused, Stopped
from holdfast.gateway.receipt import for_effect
from holdfast.store import Draft
from holdfast.store.sqlite import SqliteStore
from tests.gateway.test_vault import BRANCH, IDENTITY, KEY, TOOL, encode, intent, vault_on

async def main(folder):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = SqliteStore(folder / "runs.db", anchor=None)
    vault = vault_on(store, folder)
    grant = await store.claim(BRANCH)
    [before] = await store.read(BRANCH, newest=1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    try:
        await store.append(BRANCH, [Draft(bytes.fromhex(IDENTITY), encode(intent()))], epoch=grant.epoch, barrier=True)
    except Stopped:
        print("not written")
    try:
        await vault.open("crm", for_effect(BRANCH, before.seq + 1, TOOL, KEY))
    except Refused as refused:
        print(refused.what)

asyncio.run(main(pathlib.Path(sys.argv[1])))
"""


def test_an_intent_that_found_no_space_opens_nothing(tmp_path: Path) -> None:
    asyncio.run(_begin(tmp_path))
    ran = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60
    )
    assert ran.stdout.splitlines() == [
        "not written",
        "the credential `crm` stays closed: no intent of this call is in the log",
    ], ran.stderr


async def _begin(folder: Path) -> None:
    store = Shelf("sqlite", folder / "runs.db").open()
    await place(store, Settled(intent=1, outcome=NotHappened("begins"), by="ada"))
    await store.close()


async def test_a_store_that_cannot_be_read_opens_nothing(tmp_path: Path) -> None:
    shelf = Shelf("sqlite", tmp_path / "runs.db")
    store = shelf.open()
    seq = await place(store, intent())
    await store.close()
    data = bytearray((tmp_path / "runs.db").read_bytes())
    data[4096 * 2 :] = bytes(len(data) - 4096 * 2)
    vault = vault_on(shelf.open(), tmp_path)
    (tmp_path / "runs.db").write_bytes(data)
    await stays_closed(vault, for_effect(BRANCH, seq, TOOL, KEY))


# --- nothing shows it ---


async def test_a_credential_shows_itself_nowhere(vault: Vault) -> None:
    found = await vault.open("crm", for_read(BRANCH, "crm.list"))
    shown = [repr(found), str(found), f"{found}", f"{found:>40}", "%s" % found, repr([found]), repr({"a": found})]  # noqa: UP031
    shown += [repr(copy.copy(found)), repr(copy.deepcopy(found)), str(dir(found)), repr(vault.__dict__)]
    assert not [text for text in shown if SECRET in text]
    for show in (json.dumps, pickle.dumps, vars, list):
        with pytest.raises(TypeError):
            show(found)  # type: ignore[operator]


async def test_a_credential_that_cannot_be_had_is_proof_that_nothing_was_sent(vault: Vault, tmp_path: Path) -> None:
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(DidNotHappen) as failed:
        await vault.open("crm", for_read(BRANCH, "crm.list"))
    assert "`crm` cannot be had" in failed.value.what
    assert SECRET not in "".join(traceback.format_exception(failed.value))


def test_a_secret_in_the_place_of_a_reference_is_refused_and_not_shown(store: MemoryStore) -> None:
    with pytest.raises(Misuse, match="credential `crm`") as refused:
        Vault({"crm": SECRET}, store, uses={})
    assert SECRET not in str(refused.value)


# --- rotation ---


async def test_the_next_call_after_a_rotation_uses_the_new_value_and_the_old_one_is_still_scrubbed(
    vault: Vault, tmp_path: Path
) -> None:
    receipt = for_read(BRANCH, "crm.list")
    await vault.open("crm", receipt)
    (tmp_path / "token").write_text("another-secret-88")
    found = await vault.open("crm", receipt)
    assert found.reveal() == "another-secret-88"
    assert set(found.forms()) == {b"another-secret-88", SECRET.encode()}


async def test_credentials_that_cannot_be_had_are_named_with_the_reason(vault: Vault, tmp_path: Path) -> None:
    assert vault.missing() == {}
    (tmp_path / "token").unlink()
    assert vault.missing() == dict.fromkeys(("crm", "mail"), "the file cannot be read: No such file or directory")


# --- what a call has minted ---


async def test_a_minted_secret_is_known_by_its_handle_after_a_restart(store: MemoryStore, tmp_path: Path) -> None:
    handle = await vault_on(store, tmp_path, kept=tmp_path / "kept").keep("key", "minted-99", for_read(BRANCH, "crm.x"))
    again = vault_on(store, tmp_path, kept=tmp_path / "kept")
    assert (await again.resolve(handle, for_read("r@b2", "crm.y"))).reveal() == "minted-99"


async def test_neither_file_shows_a_minted_secret_or_its_handle(store: MemoryStore, tmp_path: Path) -> None:
    vault = vault_on(store, tmp_path, kept=tmp_path / "kept")
    handle = await vault.keep("key", "minted-99", for_read(BRANCH, "crm.x"))
    for path in (tmp_path / "kept", tmp_path / "kept-key"):
        assert path.stat().st_mode & 0o077 == 0
        assert b"minted-99" not in path.read_bytes()
        assert handle.encode() not in path.read_bytes()
        assert handle[4:].encode() not in path.read_bytes()


async def test_a_handle_opens_for_its_run_and_its_systems_only(vault: Vault, store: MemoryStore) -> None:
    handle = await vault.keep("key", "minted-99", for_read(BRANCH, "crm.x"), systems=["mail"])
    assert (await vault.resolve(handle, for_read(BRANCH, "mail.x"))).reveal() == "minted-99"
    forged = Receipt(BRANCH, 0, "mail.x", "", bytes(32))
    unwritten = for_effect(BRANCH, 7, "mail.send", KEY)
    for receipt in (for_read("other@main", "mail.x"), for_read(BRANCH, "crm.x"), forged, unwritten):
        with pytest.raises(Refused) as refused:
            await vault.resolve(handle, receipt)
        assert "minted-99" not in str(refused.value)
        assert handle not in str(refused.value)


async def test_what_only_looks_like_a_handle_opens_nothing(vault: Vault) -> None:
    for handle in ("hfv_" + "A" * 43, "hfv_", "", "crm", "\ud800"):
        with pytest.raises(Refused):
            await vault.resolve(handle, for_read(BRANCH, "crm.x"))


async def test_nothing_is_kept_for_a_call_that_nobody_made(vault: Vault) -> None:
    with pytest.raises(Refused):
        await vault.keep("key", "minted-99", Receipt(BRANCH, 0, "crm.x", "", bytes(32)))


async def test_a_write_that_was_cut_off_takes_no_other_secret_with_it(store: MemoryStore, tmp_path: Path) -> None:
    kept, receipt = tmp_path / "kept", for_read(BRANCH, "crm.x")
    first = await vault_on(store, tmp_path, kept=kept).keep("key", "minted-1", receipt)
    whole = kept.read_bytes()
    kept.write_bytes(whole + whole[: len(whole) // 2])
    second = await vault_on(store, tmp_path, kept=kept).keep("key", "minted-2", receipt)
    vault = vault_on(store, tmp_path, kept=kept)
    assert [(await vault.resolve(handle, receipt)).reveal() for handle in (first, second)] == ["minted-1", "minted-2"]


async def test_a_kept_secret_that_was_changed_is_corrupt(store: MemoryStore, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    await vault_on(store, tmp_path, kept=kept).keep("key", "minted-1", for_read(BRANCH, "crm.x"))
    data = bytearray(kept.read_bytes())
    data[20] ^= 1
    kept.write_bytes(data)
    with pytest.raises(Corrupt, match="cannot be opened"):
        vault_on(store, tmp_path, kept=kept)


async def test_a_full_disk_keeps_nothing_and_gives_no_handle(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = vault_on(store, tmp_path, kept=tmp_path / "kept")
    (tmp_path / "kept").symlink_to("/dev/full")
    with pytest.raises(StoreFull, match=os.strerror(errno.ENOSPC)):
        await vault.keep("key", "minted-1", for_read(BRANCH, "crm.x"))
