"""Finding an agent by its name.

Rules
1. A module is imported because the user names it: on the command line, in HOLDFAST_AGENTS, or in the pyproject.toml of
   the directory they stand in. Never because a log names it.
2. Modules are looked for in the current directory first.
"""

from __future__ import annotations

import inspect
import os
import sys
from importlib import import_module
from typing import Any

from holdfast.agent.note import is_name
from holdfast.agent.run import Agent
from holdfast.errors import HoldfastError, Misuse, Unknown


def agent_named(name: str) -> Agent:
    """The agent `MODULE:NAME`, imported. Raises Misuse, Unknown."""
    module, _, inner = name.partition(":")
    if not is_name(name):
        raise Misuse(f"`{name}` does not name an agent", fix="write MODULE:AGENT, for a function decorated with @agent")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    found: Any = _imported(module)
    for part in inner.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Agent):
        what = "is not an agent" if found is not None else "does not exist"
        raise Unknown(f"`{name}` {what}", where=_place(module), fix="name a function decorated with @agent")
    _takes_run_and_task(found, name, module)
    return found


def _takes_run_and_task(agent: Agent, name: str, module: str) -> None:
    try:
        inspect.signature(agent.function).bind(object(), object())
    except TypeError as error:
        raise Misuse(
            f"`{name}` cannot be called with a run and a task: {error}",
            where=_place(module),
            fix=f"write def {agent.function.__name__}(run, task)",
        ) from None
    except ValueError:  # it does not tell its arguments
        return


def _imported(module: str) -> object:
    try:
        return import_module(module)
    except HoldfastError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
            fix = f"go to the directory that holds `{module.partition('.')[0]}`, or install it"
            raise Unknown(f"there is no module `{module}`", where=os.getcwd(), fix=fix) from None
        raise Misuse(f"`{module}` cannot be imported: {error}", fix=f"pip install {error.name}") from error
    except (Exception, SystemExit) as error:
        raise Misuse(
            f"`{module}` cannot be imported: {type(error).__name__}: {error}",
            where=_raised_at(error),
            fix="mend it; --debug shows more",
        ) from error


def _place(module: str) -> str:
    return str(getattr(sys.modules.get(module), "__file__", "") or "")


def _raised_at(error: BaseException) -> str:
    import traceback

    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}:{last.lineno}"
