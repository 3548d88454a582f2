"""What a speculative branch gets instead of an answer.

Rules
1. It can be passed on and kept, but not looked into: whoever does, has come to the end of what can be done before the
   branch is promoted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NoReturn, cast

from holdfast.errors import Ready, Waiting


class Pending:
    """Stands for the answer of an effect that is held until its branch is promoted."""

    __slots__ = ("_branch", "_park", "_tool")

    def __init__(self, tool: str, branch: str, park: Callable[[Waiting], Waiting]) -> None:
        self._tool = tool
        self._branch = branch
        self._park = park

    def needed(self) -> NoReturn:
        """Stop here: the answer itself is needed. Raises Ready."""
        raise self._park(
            Ready(
                f"the answer of `{self._tool}` is needed, which is held until this branch is promoted",
                where=self._branch,
                fix=f"holdfast promote {self._branch.replace('@', ' ')}",
            )
        )

    def __repr__(self) -> str:
        return f"<the answer of {self._tool}, which is held>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self.needed()

    def _stop(self, *_: object) -> Any:
        self.needed()

    __str__ = __bytes__ = __bool__ = __len__ = __iter__ = __getitem__ = __contains__ = __call__ = _stop
    __int__ = __float__ = __index__ = __add__ = __radd__ = __sub__ = __mul__ = __lt__ = __le__ = __gt__ = __ge__ = _stop
    __eq__ = __ne__ = __hash__ = __format__ = __await__ = __enter__ = __aiter__ = __mod__ = __rmod__ = _stop


def stop_at_pending(value: object) -> None:
    """Raise Ready if `value` is, or holds, an answer that is still held."""
    todo, met = [value], set[int]()
    while todo:
        value = todo.pop()
        if type(value) is Pending:
            value.needed()
        if isinstance(value, str | bytes | bytearray | int | float | None) or id(value) in met:
            continue
        met.add(id(value))
        if isinstance(value, Mapping):
            todo.extend(cast("Mapping[object, object]", value).values())
        elif isinstance(value, Sequence | Set):
            todo.extend(cast("Sequence[object]", value))
        else:
            todo.extend(getattr(value, "__dict__", {}).values())
