"""A secret in the hands of whoever may use it: nothing shows it but `reveal()`.

Rules
1. No text, copy, pickle or comparison of a credential tells anything of its value.
2. What it was before its rotation is known too, for a while: an answer that still holds the old value is scrubbed.
"""

from __future__ import annotations

from typing import NoReturn, final


@final
class Credential:
    """The secret `name`, as a vault has released it."""

    __slots__ = ("__former", "__name", "__value")

    def __init__(self, name: str, value: str, former: tuple[str, ...] = ()) -> None:
        self.__name = name
        self.__value = value
        self.__former = former

    @property
    def name(self) -> str:
        """As it stands under `[credentials]`."""
        return self.__name

    def reveal(self) -> str:
        """The secret itself: only for the request that it belongs to."""
        return self.__value

    def forms(self) -> tuple[bytes, ...]:
        """The bytes (UTF-8) of the secret, and of what it was until lately: what has to be scrubbed. Longest first."""
        texts = {self.__value, *self.__former}
        return tuple(
            sorted((text.encode("utf-8", "surrogatepass") for text in texts if text), key=lambda b: (-len(b), b))
        )

    def __repr__(self) -> str:
        return f"<credential `{self.__name}`>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __copy__(self) -> Credential:
        return self

    def __deepcopy__(self, memo: object) -> Credential:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a credential is not pickled")

    def __getstate__(self) -> NoReturn:
        raise TypeError("a credential is not pickled")
