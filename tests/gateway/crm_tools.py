"""The tools of the tests of tool hosts, as a user would write them. What they do in the world is a line in a file."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import holdfast
from holdfast import Happened, NotHappened, RetryAfter, tool


def world() -> Path:
    return Path(os.environ["WORLD"])


def do(what: str) -> None:
    with world().open("a") as file:
        file.write(f"{what}\n")


@tool(kind="read", name="crm.list")
def listing(prefix: str = "") -> list[str]:
    """The customers whose names begin so."""
    return [name for name in ("ada", "alan", "grace") if name.startswith(prefix)]


@tool(
    kind="idempotent",
    name="crm.update",
    identity=["customer"],
    resource=["customer"],
    blast=lambda customer, **_: len(customer),
)
async def update(customer: str, score: int, note: str = "none") -> dict[str, Any]:
    """Set a customer's score."""
    do(f"update {customer} {score} {holdfast.key()}")
    return {"customer": customer, "score": score, "token_length": len(os.environ.get("CRM_TOKEN", "")), "note": note}


@tool(kind="irreversible")
def versioned(customer: str) -> Happened[dict[str, str]]:
    do(f"versioned {customer} {holdfast.key()}")
    return Happened({"customer": customer}, "v7")


@tool(kind="read")
def leak() -> dict[str, str]:
    """A careless tool: it answers, prints and names its credential."""
    token = os.environ["CRM_TOKEN"]
    print("the token is", token, flush=True)
    subprocess.run([sys.executable, "-c", "import os; print('child sees', os.environ['CRM_TOKEN'])"], check=True)
    return {"sent": f"Bearer {token}", "hex": token.encode().hex()}


@tool(kind="irreversible")
def fail(how: str) -> str:
    token = os.environ["CRM_TOKEN"]
    match how:
        case "not happened":
            raise NotHappened(f"no such customer ({token})")
        case "later":
            raise RetryAfter(7.5)
        case "error":
            raise ValueError(f"bad answer for {token}")
        case "exit":
            raise SystemExit(3)
        case _:
            return object()  # type: ignore[return-value]


@tool(kind="irreversible")
def die(how: str) -> str:
    do(f"die {how}")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(9)


@tool(kind="irreversible", timeout_s=0.5)
def slow(until: str) -> str:
    do("slow begins")
    while not Path(until).exists():
        time.sleep(0.01)
    do("slow ends")
    return "done"


@tool(kind="irreversible")
async def waits(until: str) -> str:
    do("waits begins")
    while not os.path.exists(until):  # noqa: ASYNC110, ASYNC240 - another process makes it
        await asyncio.sleep(0.01)
    do("waits ends")
    return "done"


def looked_up(customer: str) -> Happened[str] | NotHappened | None:
    if customer == "unknown":
        return None
    lines = world().read_text().splitlines() if world().exists() else []
    if f"probed {customer}" in lines:
        return Happened(f"found {customer}", "e1")
    raise NotHappened(f"no {customer}")


@tool(kind="irreversible", probe=looked_up)
def probed(customer: str) -> str:
    do(f"probed {customer}")
    return f"made {customer}"


@tool(kind="irreversible")
def starts(until: str) -> str:
    """It leaves the work to a process of its own, and waits for it."""
    wait = "while not os.path.exists(sys.argv[1]): time.sleep(0.01)"
    write = "open(os.environ['WORLD'], 'a').write('child ends\\n')"
    program = (
        f"import os, sys, time\nopen(os.environ['WORLD'], 'a').write(f'child {{os.getpid()}}\\n')\n{wait}\n{write}"
    )
    subprocess.run([sys.executable, "-c", program, until], check=True)
    return "done"


def half_done(customer: str) -> Happened[str] | None:
    return Happened(f"found {customer}") if f"half {customer}" in world().read_text().splitlines() else None


@tool(kind="irreversible", probe=half_done)
def half(customer: str) -> str:
    """It does it, and its process dies before it can say so."""
    do(f"half {customer}")
    os.kill(os.getpid(), signal.SIGKILL)
    return "never said"


def take_back(customer: str, answer: str | None) -> str:
    do(f"unmade {customer} {answer} {holdfast.key()}")
    return "gone"


@tool(kind="reversible", undo=take_back)
def made(customer: str) -> str:
    do(f"made {customer}")
    return f"id-{customer}"


@tool(kind="read")
def looks() -> dict[str, Any]:
    """What a tool sees of its process."""
    return {
        "environment": dict(os.environ),
        "cwd": os.getcwd(),
        "descriptors": sorted(
            os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{fd}")
        ),
        "arguments": sys.argv,
        "pid": os.getpid(),
    }
