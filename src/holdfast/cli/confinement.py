"""What `holdfast doctor` says about sandboxes: can this machine confine an agent, and what is missing for it?"""

from __future__ import annotations

from collections.abc import Iterator

from holdfast.cli.checks import Check


def confinement() -> Iterator[Check]:
    """One finding for each thing that is missing, or one that all is well. Only a warning: a log needs no sandbox."""
    from holdfast.gateway.groups import groups
    from holdfast.gateway.preflight import preflight

    missing = preflight()
    for one in missing:
        yield Check("confinement", "warn", f"no sandbox here: {one.what}", one.fix)
    if not missing:
        whose = "each process" if groups().memory is None else "the whole sandbox"
        yield Check("confinement", "ok", f"a sandbox was made and left; memory is limited for {whose}")
