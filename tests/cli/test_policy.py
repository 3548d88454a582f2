"""Policies on the command line: written, tested with tables of calls, and tried on the logs of runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast import Run, agent, open_store, tool
from holdfast.core.record import Refusal
from holdfast.gateway.rules import FOLDER
from tests.cli.keyboard import ROOT, done, play, read, surroundings, typed

WRITTEN = ("starter.cedar", "starter.toml", "holdfast.cedarschema")
RULES = '@id("reads") permit (principal, action == Action::"read", resource);\n'
CALL = '[[call]]\nname = "a call"\ntool = "mail.send"\nkind = "irreversible"\n'


# --- init ---


def test_a_policy_to_begin_with_is_written_once() -> None:
    told = done("policy", "init")
    assert told.splitlines() == [f"policies/{name}" for name in WRITTEN]
    for name in WRITTEN:
        assert (Path("policies") / name).read_bytes() == (FOLDER / name).read_bytes()
    Path("policies/starter.cedar").write_text("mine")
    again = typed("policy", "init")
    assert again.exit_code == 2
    assert "the file exists [policies/starter.cedar]" in again.stderr
    assert Path("policies/starter.cedar").read_text() == "mine"


def test_a_policy_is_written_where_it_is_wanted_whole_or_not_at_all() -> None:
    Path("here").mkdir()
    Path("here/starter.toml").write_text("mine")
    assert typed("policy", "init", "here").exit_code == 2
    assert sorted(path.name for path in Path("here").iterdir()) == ["starter.toml"]
    assert "deep/er/starter.cedar" in done("policy", "init", "deep/er")


# --- test ---


def test_the_starter_policy_says_what_its_table_says() -> None:
    done("policy", "init")
    result = typed("policy", "test", "policies/starter.toml")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "10 calls, all as expected"
    found = read("policy", "test", "policies/starter.toml")
    assert [each["ok"] for each in found] == [True] * 10
    assert {each["verdict"] for each in found} == {"allowed", "held"}


def test_a_verdict_that_is_not_expected_is_told_and_the_exit_code_says_so() -> None:
    Path("p.cedar").write_text(RULES)
    Path("t.toml").write_text(f'{CALL}verdict = "held"\nlevel = "one"\n\n{CALL}verdict = "denied"\n')
    result = typed("policy", "test", "t.toml")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[1].split() == "WRONG a call mail.send held one denied by holdfast.default".split()
    assert lines[2].startswith("ok")
    assert lines[-1] == "2 calls, 1 not as expected"
    (wrong, right) = read_failing("policy", "test", "t.toml")
    assert (wrong["ok"], wrong["expected"], wrong["verdict"], wrong["level"]) == (False, "held one", "denied", None)
    assert (right["ok"], right["reason"]) == (True, "no rule allows it")


def read_failing(*words: str) -> list[dict[str, object]]:
    result = typed(*words, "--json")
    assert result.exit_code == 1
    found: list[dict[str, object]] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        ('verdict = "denied"', False),
        ('verdict = "denied"\nrule = "holdfast.default"', False),
        ('verdict = "denied"\nrule = "another"', True),
        ('verdict = "allowed"', True),
    ],
)
def test_a_table_expects_as_much_as_it_says(more: str, *, wrong: bool) -> None:
    Path("p.cedar").write_text(RULES)
    Path("t.toml").write_text(CALL + more)
    assert typed("policy", "test", "t.toml").exit_code == int(wrong)


def test_a_table_names_its_policy_from_its_own_place_and_another_can_be_tried() -> None:
    Path("deep").mkdir()
    Path("deep/p.cedar").write_text(RULES)
    Path("all.cedar").write_text('@id("all") permit (principal, action, resource);')
    Path("deep/t.toml").write_text(f'policy = ["p.cedar"]\n{CALL}verdict = "denied"')
    assert typed("policy", "test", "deep/t.toml").exit_code == 0
    assert typed("policy", "test", "deep/t.toml", "--policy", "all.cedar").exit_code == 1
    assert typed("policy", "test", "deep/t.toml", "deep/t.toml").stdout.count("ok") == 2


def test_a_table_says_all_that_a_rule_may_speak_of() -> None:
    Path("p.cedar").write_text(
        """
        @id("r") permit (principal == Agent::"m:a", action in Action::"write", resource in System::"crm.eu")
        when { context.run == "dun-7" && context.capability == "c9" && context has blast && context.blast == 3
          && context.labels.contains("untrusted:web") && context.hour == 3 && context.weekday == 7
          && context.spent.calls == 1 && context.spent.money == 2 && context.spent.blast == 4
          && context.number.hasTag("sum") && context.number.getTag("sum") == 5 };
        """
    )
    Path("t.toml").write_text(
        """
        [[call]]
        tool = "crm.eu.put"
        system = "crm.eu"
        kind = "idempotent"
        agent = "m:a"
        run = "dun-7"
        capability = "c9"
        blast = 3
        labels = ["untrusted:web"]
        now = 2026-01-04T04:30:00+01:00
        spent = { calls = 1, money = 2, blast = 4 }
        args = { sum = 5 }
        verdict = "allowed"
        rule = "r"
        """
    )
    assert done("policy", "test", "t.toml").splitlines()[-1] == "1 calls, all as expected"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "`call`: field required"),
        ("call = []", "`call`: list should have at least 1 item"),
        ('[[call]]\ntool = "a.b"\nkind = "read"', "`call.1.verdict`: field required"),
        (CALL + 'verdict = "perhaps"', "`call.1.verdict`: input should be 'allowed', 'held' or 'denied'"),
        (CALL + 'verdict = "held"\nlvel = "one"', "`call.1.lvel`: extra inputs are not permitted"),
        (CALL + 'verdict = "held"\nnow = 2026-01-04T04:30:00', "`call.1.now`: input should have timezone info"),
        ("call = [", "the table is not TOML"),
    ],
)
def test_a_table_that_is_not_understood_is_named_with_its_place(text: str, says: str) -> None:
    Path("p.cedar").write_text(RULES)
    Path("t.toml").write_text(text)
    result = typed("policy", "test", "t.toml")
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr
    assert "[t.toml]" in result.stderr
    assert "fix: " in result.stderr


def test_a_policy_that_cannot_be_loaded_is_named_with_its_line() -> None:
    Path("p.cedar").write_text(RULES + "permit (principal, action, resource);")
    Path("t.toml").write_text(CALL + 'verdict = "denied"')
    result = typed("policy", "test", "t.toml")
    assert result.exit_code == 2
    assert "the rule has no name that can stand in a log [p.cedar:2]" in result.stderr


def test_a_table_or_a_policy_that_is_not_there_is_told() -> None:
    assert "no such file" in typed("policy", "test", "none.toml").stderr
    Path("t.toml").write_text(f'policy = ["none.cedar"]\n{CALL}verdict = "denied"')
    result = typed("policy", "test", "t.toml")
    assert result.exit_code == 2
    assert "[none.cedar]" in result.stderr


# --- replay ---


def now_of(row: dict[str, object]) -> tuple[object, ...]:
    return row["node"], row["tool"], row["kind"], row["then"], row["now"], row["level"], row["rule"], row["changed"]


def test_a_policy_is_tried_on_the_log_of_a_run() -> None:
    done("policy", "init")
    play("dun", {"to": "ann", "name": "x"}, "d")
    rows = read("policy", "replay", "d")
    assert [now_of(row) for row in rows] == [
        ("d@4", "look", "read", "allowed", "allowed", "none", "reads", False),
        ("d@5", "put", "idempotent", "allowed", "allowed", "none", "idempotent", False),
        ("d@7", "mail", "irreversible", "allowed", "held", "one", "irreversible", True),
    ]
    text = done("policy", "replay", "d")
    assert text.splitlines()[-1] == "3 calls, 1 would be judged otherwise"
    assert "held one by irreversible: it cannot be taken back" in text


def test_a_call_that_people_agreed_to_is_told_once_as_it_was_held() -> None:
    done("policy", "init")
    play("wirer", {"cents": 5}, "w")
    (waits,) = read("policy", "replay", "w")
    assert now_of(waits) == ("w@3", "wire", "irreversible", "held two", "held", "one", "irreversible", True)
    done("approve", "w@3", "--by", "ann")
    done("approve", "w@3", "--by", "bob")
    done("resume", "w", "--agent", "tests.cli.troupe:wirer")
    assert read("policy", "replay", "w") == [waits]


def test_arguments_labels_and_what_was_used_up_are_judged_as_they_were() -> None:
    Path("p.cedar").write_text(
        """
        @id("cents") forbid (principal, action, resource == Tool::"pay")
        when { context.number.hasTag("cents") && context.number.getTag("cents") > 100 };
        @id("first") permit (principal, action, resource) when { context.spent.calls == 0 };
        @id("marked") permit (principal, action, resource) when { context.labels.contains("untrusted") };
        """
    )
    play("payer", {"cents": 5}, "low")
    play("payer", {"cents": 500}, "high")
    play("dun", {"to": "ann", "name": "x"}, "d")

    def rules(*words: str) -> list[object]:
        return [row["rule"] for row in read("policy", "replay", *words, "--policy", "p.cedar")]

    assert rules("low") == ["first"]
    assert rules("high") == ["cents"]
    assert rules("d") == ["first", "holdfast.default", "holdfast.default"]
    assert rules("d", "--label", "untrusted:web") == ["first", "marked", "marked"]


def test_what_the_log_does_not_keep_is_told_and_not_judged() -> None:
    @tool(kind="irreversible", name="bank.pay", identity=["to"], drift="refuse")
    def pay(to: str, cents: int) -> int:
        return cents

    @agent
    def payer(run: Run, task: int) -> str:
        pay("ann", 1)
        try:
            pay("ann", task)
        except Exception:  # noqa: BLE001 - the contract refuses other arguments
            return "refused"
        return "paid"

    done("policy", "init")
    with open_store("sqlite:///holdfast.db") as house:
        assert house.run(payer, 2, id="p") == "refused"
    rows = read("policy", "replay", "p")
    assert [row["now"] for row in rows] == ["held", None]
    assert rows[1]["then"] == "denied"
    assert rows[1]["reason"] == "the log does not keep its arguments"
    assert Refusal.__name__.lower() in done("log", "p")


def test_a_replay_needs_a_run_a_store_and_a_policy() -> None:
    assert "there is no store here" in typed("policy", "replay", "d").stderr
    play("dun", {"to": "ann", "name": "x"}, "d")
    missing = typed("policy", "replay", "d")
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert "[policies]" in missing.stderr
    done("policy", "init")
    assert typed("policy", "replay", "none").exit_code == 2
    assert typed("policy", "replay", "d@b9").exit_code == 2


def test_the_engine_of_policies_is_imported_when_a_policy_is_judged() -> None:
    script = (
        "import sys\nfrom holdfast.cli.app import program\nprogram()\n"
        "sys.exit(sorted({'cedarpy', 'pydantic'} & set(sys.modules)) != [])"
    )
    ran = subprocess.run([sys.executable, "-c", script], env=surroundings(), cwd=ROOT, check=False, timeout=60)
    assert ran.returncode == 0


def test_without_the_engine_it_is_told_what_to_install(here: Path) -> None:
    done("policy", "init")
    script = (
        "import sys\nsys.modules['cedarpy'] = None\nfrom holdfast.cli import main\n"
        "sys.exit(main(['policy', 'test', 'policies/starter.toml']))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], env=surroundings(), cwd=here, check=False, timeout=60, text=True,
        capture_output=True,
    )  # fmt: skip
    assert ran.returncode == 2
    assert ran.stderr == "Misuse: policies need `cedarpy`\n  fix: pip install 'holdfast[gateway]'\n"
