"""The world: what lies outside every store, and counts what was done to it.

Rules
1. Whatever is done is one line, appended in one write under a lock: what a killed process has done stays done.
   (SIGKILL takes nothing that was written from the system; only a power cut could, and that is another test's
   business.)
2. Nothing is deduplicated but what `once` asks for, like a server that honours idempotency keys; even then the
   sending is counted.
3. Every effect has an answer of its own, so that one that is repeated is seen twice: in the count and in the answer.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Line = dict[str, object]


class World:
    """One trial's world, in the file `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    # --- what tools, probes, undos and models do ---

    def act(self, tool: str, name: str, key: str, *, once: bool = False) -> str:
        """Carry it out; its answer. With `once` a key that is known is answered as before."""
        with self._alone() as append:
            done = [line for line in self.lines() if line.get("did") == tool]
            known = [line for line in done if line["key"] == key and not line["repeated"]]
            repeated = once and bool(known)
            fresh = f"{tool}/{name}/{len(done) + 1}"
            answer = str(known[0]["answer"]) if repeated else fresh
            append({"did": tool, "name": name, "key": key, "answer": answer, "repeated": repeated})
            return answer

    def clear(self, tool: str, name: str) -> None:
        """Make sure that nothing of this name is there."""
        with self._alone() as append:
            append({"took back": tool, "name": name, "answers": self.living(tool, name)})

    def meet(self, what: str, name: str) -> int:
        """How often this was met before, now once more (a refusal, a rate limit)."""
        with self._alone() as append:
            before = sum(1 for line in self.lines() if (line.get("met"), line.get("name")) == (what, name))
            append({"met": what, "name": name})
            return before

    def answer(self, prompt: str) -> str:
        """A model's answer: another one each time."""
        with self._alone() as append:
            answer = f"{prompt}? {sum('asked' in line for line in self.lines()) + 1}"
            append({"asked": prompt, "answer": answer})
            return answer

    def saw(self, where: str, answer: object) -> object:
        """An agent was given this answer at this place of its program."""
        with self._alone() as append:
            append({"saw": where, "answer": answer})
            return answer

    def begins(self, state: object) -> None:
        """A life of an agent begins with this state."""
        with self._alone() as append:
            append({"begins": state})

    # --- the census ---

    def lines(self) -> list[Line]:
        """Everything, in order."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_bytes().splitlines()]

    def effects(self, tool: str, name: str) -> list[str]:
        """The answers of all effects on `name` that were ever carried out."""
        done = [line for line in self.lines() if line.get("did") == tool and line["name"] == name]
        return [str(line["answer"]) for line in done if not line["repeated"]]

    def sendings(self, tool: str, name: str) -> list[str]:
        """The keys of all sendings, also of those that changed nothing."""
        return [str(line["key"]) for line in self.lines() if line.get("did") == tool and line["name"] == name]

    def there(self, tool: str, key: str) -> list[str]:
        """The answers of the effects of a key that have not been taken back."""
        return [line[0] for line in self._living(tool) if line[1] == key]

    def living(self, tool: str, name: str) -> list[str]:
        """The answers of the effects on `name` that have not been taken back."""
        made = set(self.effects(tool, name))
        return [answer for answer, _ in self._living(tool) if answer in made]

    def _living(self, tool: str) -> list[tuple[str, str]]:
        lines = self.lines()
        gone = Counter(str(answer) for line in lines if line.get("took back") == tool for answer in _list(line))
        done = [line for line in lines if line.get("did") == tool and not line["repeated"]]
        return [(str(line["answer"]), str(line["key"])) for line in done if not gone[str(line["answer"])]]

    def done_twice(self) -> list[tuple[str, str]]:
        """The tools and names that were carried out more than once under one key, taken back in between or not."""
        done = [line for line in self.lines() if "did" in line and not line["repeated"]]
        counted = Counter((str(line["did"]), str(line["name"]), str(line["key"])) for line in done)
        return [(tool, name) for (tool, name, _), times in counted.items() if times > 1]

    def beside_itself(self) -> list[str]:
        """The effects that were carried out while one of the same tool and name was there."""
        there: dict[tuple[object, object], int] = {}
        doubled: list[str] = []
        for line in self.lines():
            if "took back" in line:
                there[line["took back"], line["name"]] = 0
            elif "did" in line and not line["repeated"]:
                place = line["did"], line["name"]
                there[place] = there.get(place, 0) + 1
                doubled += [str(line["answer"])] * (there[place] > 1)
        return doubled

    def asked(self) -> list[str]:
        """The prompts that a model was asked, in order."""
        return [str(line["asked"]) for line in self.lines() if "asked" in line]

    def changed_minds(self) -> dict[str, list[object]]:
        """The places of the program at which agents were given different answers in different lives."""
        seen: dict[str, list[object]] = {}
        for line in self.lines():
            if "saw" in line and line["answer"] not in seen.setdefault(str(line["saw"]), []):
                seen[str(line["saw"])].append(line["answer"])
        return {where: answers for where, answers in seen.items() if len(answers) > 1}

    @contextmanager
    def _alone(self) -> Iterator[Callable[[Line], int]]:
        with self.path.open("ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield lambda line: os.write(file.fileno(), json.dumps({**line, "pid": os.getpid()}).encode() + b"\n")


def _list(line: Line) -> list[object]:
    answers = line["answers"]
    assert isinstance(answers, list)
    return answers
