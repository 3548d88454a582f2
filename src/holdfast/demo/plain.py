"""The same agent without Holdfast: the same functions, called as the plain functions that they are.

It is not made to look foolish. It waits out rate limits as a careful program does. It has no log, so after a crash it
does what programs do: it starts again from the top.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from holdfast import RetryAfter
from holdfast.demo.migration import migrate

Value = TypeVar("Value")


class Plain:
    """Carries out each call at once, and remembers nothing."""

    def call(self, tool: Callable[..., Value], **arguments: object) -> Value:
        return self._insist(lambda: tool(**arguments))

    def decide(self, ask: Callable[..., Value], *arguments: object) -> Value:
        return self._insist(lambda: ask(*arguments))

    def _insist(self, attempt: Callable[[], Value]) -> Value:
        while True:
            try:
                answer = attempt()
            except RetryAfter as later:
                time.sleep(later.seconds)
            else:
                return answer


def main() -> None:
    migrate(Plain(), {"shop": "shop.example"})


if __name__ == "__main__":
    main()
