"""Laws, over trees and changes that nobody thought of."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.workspace import Added, Changed, Moved, Packs, Removed, Workspace, diff
from tests.examples import examples
from tests.workspace.census import Census, census

# Few names and contents, so that a second tree often meets the first; some that are not UTF-8, or look like something.
NAMES = [b"a", b"b", b"c", b"\xff\xfe", b"new\nline", b"-rf", b"...", b"\xc3\xa9", b" "]
CONTENTS = [b"", b"one", b"two", b"\0" * 70_000, b"x" * 200_000 + b"\0" * 100_000 + b"y"]
SECOND = 1_000_000_000
moments = st.integers(-5 * SECOND, 4_000 * SECOND)

files = st.tuples(
    st.just("file"), st.integers(0, len(CONTENTS) - 1), st.sampled_from([0o600, 0o644, 0o755, 0o4711]), moments
)
symlinks = st.tuples(st.just("symlink"), st.sampled_from([b"a", b"../..", b"/etc/passwd", b"\xff"]), moments)
pipes = st.tuples(st.just("pipe"), st.sampled_from([0o600, 0o622]), moments)
same = st.tuples(st.just("same"), st.integers(0, 20))  # another name of a file that is there


def folders(inside: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.tuples(
        st.just("folder"),
        st.dictionaries(st.sampled_from(NAMES), inside, max_size=5),
        st.sampled_from([0o700, 0o755, 0o1777]),
        moments,
    )


things = st.recursive(st.one_of(files, files, symlinks, pipes, same), folders, max_leaves=12)
trees = folders(things)


def plant(path: bytes, thing: tuple, files_made: list[bytes]) -> None:
    match thing:
        case ("file", content, mode, moment):
            with open(path, "wb") as file:
                file.write(CONTENTS[content])
            os.chmod(path, mode)
            os.utime(path, ns=(0, moment))
            files_made.append(path)
        case ("symlink", target, moment):
            os.symlink(target, path)
            os.utime(path, ns=(0, moment), follow_symlinks=False)
        case ("pipe", mode, moment):
            os.mkfifo(path)
            os.chmod(path, mode)
            os.utime(path, ns=(0, moment))
        case ("same", number):
            if files_made:
                os.link(files_made[number % len(files_made)], path)
        case ("folder", inside, mode, moment):
            os.makedirs(path, exist_ok=True)
            for name, one in inside.items():
                plant(path + b"/" + name, one, files_made)
            os.chmod(path, mode)
            os.utime(path, ns=(0, moment))


def replant(root: Path, tree: tuple) -> None:
    """Make `root` what `tree` says."""
    for entry in os.scandir(os.fsencode(root)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
    plant(os.fsencode(root), tree, [])


class Trial:
    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="holdfast-workspace-"))
        self.root = self.folder / "tree"
        self.root.mkdir()
        self.packs = Packs(self.folder / "store")
        self.files = Workspace(self.root, self.packs)

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *_: object) -> None:
        self.packs.close()
        shutil.rmtree(self.folder)


house = settings(max_examples=examples(20), suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@house
@given(tree=trees)
def test_what_is_restored_into_an_empty_directory_is_what_was_captured(tree: tuple) -> None:
    with Trial() as trial:
        replant(trial.root, tree)
        before = census(trial.root)
        captured = trial.files.capture().tree
        other = trial.folder / "other"
        other.mkdir()
        Workspace(other, trial.packs).restore(captured)
        assert census(other) == before
        assert census(trial.root) == before, "a capture changes nothing"


@house
@given(one=trees, other=trees)
def test_any_tree_can_be_made_any_other_and_back(one: tuple, other: tuple) -> None:
    with Trial() as trial:
        replant(trial.root, one)
        first, first_census = trial.files.capture().tree, census(trial.root)
        replant(trial.root, other)
        second, second_census = trial.files.capture().tree, census(trial.root)
        trial.files.restore(first)
        assert census(trial.root) == first_census
        trial.files.restore(second)
        assert census(trial.root) == second_census
        assert trial.files.restore(second).touched == ()


@house
@given(one=trees, other=trees)
def test_a_capture_after_changes_is_the_capture_of_somebody_who_saw_nothing_before(one: tuple, other: tuple) -> None:
    with Trial() as trial:
        replant(trial.root, one)
        trial.files.capture()
        replant(trial.root, other)
        later = trial.files.capture().tree
        stranger = Workspace(trial.root, Packs(trial.folder / "another-store"))
        assert stranger.capture().tree == later
        beginner = Workspace(trial.root, Packs(trial.folder / "store"))
        assert beginner.capture().tree == later


@house
@given(one=trees, other=trees)
def test_a_diff_tells_every_path_that_differs_and_no_other(one: tuple, other: tuple) -> None:
    with Trial() as trial:
        replant(trial.root, one)
        first, before = trial.files.capture().tree, flat(census(trial.root))
        replant(trial.root, other)
        second, after = trial.files.capture().tree, flat(census(trial.root))
        told: dict[bytes, str] = {}
        for change in diff(trial.packs.get, first, second):
            match change:
                case Moved(path, to):
                    assert before[path][4:6] == after[to][4:6], "what moved has the same size and content"
                    told |= {path: "went", to: "came"}
                case Added(path):
                    told[path] = "came"
                case Removed(path):
                    told[path] = "went"
                case Changed(path):
                    told[path] = "changed"
        expected = dict.fromkeys(after.keys() - before.keys(), "came")
        expected |= dict.fromkeys(before.keys() - after.keys(), "went")
        expected |= {path: "changed" for path in before.keys() & after.keys() if before[path] != after[path]}
        assert told == expected


def flat(found: Census) -> Census:
    """Without the times of folders, which a diff does not tell, and the name of a file that has no other."""
    names = [told[6] for told in found.values() if told[0] == "file"]
    result: Census = {}
    for path, told in found.items():
        alone = told[0] == "file" and names.count(told[6]) == 1
        result[path] = (told[0], told[1], told[3]) if told[0] == "folder" else (*told[:6], b"") if alone else told
    result.pop(b"")
    return result
