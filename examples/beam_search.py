"""Beam search: at every step many ways are tried, and only the best few of them are followed.

    python examples/beam_search.py     # folds a chain of beads, following two ways at a time
    python examples/beam_search.py     # the run has finished: the recorded answer

A tree search would try every way to its end: here, four to the power of eight. With `keep`, the branches of one step
are judged together by what they have come to so far; the best few explore on from where they stand, with all that was
looked up and decided there. What is done in the world, a line in `moves.txt` for each move, is done on the winning way
alone.
"""

from pathlib import Path

from holdfast import Attempt, Happened, NotHappened, Run, agent, open_store, tool

MOVES = Path("moves.txt")
BEADS = "HPHPPHHPH"  # beads that are marked H are drawn to each other
STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, 1), "down": (0, -1)}
WIDTH = 2

Place = tuple[int, int]


def was_moved(number: int, step: str) -> Happened[str] | NotHappened:
    made = MOVES.read_text().splitlines(keepends=True) if MOVES.exists() else []
    return Happened(step) if f"{number} {step}\n" in made else NotHappened("the robot has not moved")


@tool(kind="irreversible", probe=was_moved)
def move(number: int, step: str) -> str:
    """Stands for a robot arm, which bends a wire."""
    with MOVES.open("a") as moves:
        moves.write(f"{number} {step}\n")
    return step


def contacts(places: list[Place]) -> int:
    """How many beads that are drawn to each other lie side by side, but for neighbours on the chain."""
    marked = [(number, place) for number, place in enumerate(places) if BEADS[number] == "H"]
    return sum(
        later - number > 1 and abs(x - right) + abs(y - up) == 1
        for number, (x, y) in marked
        for later, (right, up) in marked
    )


def folded(attempt: Attempt) -> float:
    return attempt.offer["contacts"]


@agent
async def fold(run: Run, task: None) -> dict[str, object]:
    places: list[Place] = [(0, 0)]
    steps: list[str] = []
    for number in range(1, len(BEADS)):
        so_far = {"steps": "".join(step[0] for step in steps), "contacts": contacts(places)}
        free = [step for step in STEPS if _after(places, step) not in places]
        step = await run.explore(free, score=folded, keep=WIDTH, so_far=so_far)
        await run.call(move, number=number, step=step)  # only written down, on a branch that is not promoted
        places.append(_after(places, step))
        steps.append(step)
    return {"steps": "".join(step[0] for step in steps), "contacts": contacts(places)}


def _after(places: list[Place], step: str) -> Place:
    (x, y), (right, up) = places[-1], STEPS[step]
    return x + right, y + up


if __name__ == "__main__":
    with open_store("sqlite:///runs.db") as house:
        print(house.run(fold, id="fold-1"))
