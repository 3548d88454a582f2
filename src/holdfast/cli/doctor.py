"""`holdfast doctor`: can a log on this machine be trusted to survive?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from holdfast.cli.checks import Check, checks
from holdfast.cli.confinement import confinement
from holdfast.cli.keys import files_of
from holdfast.cli.options import JsonOption, StoreOption, store_url
from holdfast.cli.terminal import busy, json_text, line, out, styled
from holdfast.errors import Unknown
from holdfast.store.url import is_postgres, needing_psycopg, shown

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True, slots=True)
class Findings:
    """All findings as JSON. `ok` is false if any check failed."""

    ok: bool
    store: str
    checks: list[Check]


def verb(store: StoreOption = None, json: JsonOption = False) -> int:
    """Check this machine and the store's place. Disk, SQLite, clock, sandbox; exits with 1 if any check fails."""
    url = store_url(store)
    with busy("checking"):
        found = [*_checks(url), *confinement()]
    failed = any(check.state == "fail" for check in found)
    if json:
        out(json_text(Findings(not failed, shown(url), found), indent=2))
    else:
        for check in found:
            line(styled(f"{check.state:<5} ", _STYLES[check.state]) + styled(f"{check.name:<12} ") + styled(check.what))
            if check.fix:
                line(styled(f"{'':<19}fix: {check.fix}"))
    return 1 if failed else 0


def _checks(url: str) -> Iterable[Check]:
    if is_postgres(url):
        with needing_psycopg():
            from holdfast.cli import checks_postgres
        return checks_postgres.checks(url)
    if not url.startswith("sqlite:"):
        raise Unknown("this store has no place to be checked", where=shown(url), fix="--store sqlite:///FILE")
    return checks(files_of(url))
