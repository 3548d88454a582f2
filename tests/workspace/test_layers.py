"""Directories that stand on one checkout: equal to restored ones in everything, apart from each other, whoever dies."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.errors import Busy, Unwritable
from holdfast.workspace import Layers, Packs, Workspace
from holdfast.workspace.mount import mountable
from tests.workspace.census import Census, census
from tests.workspace.test_crash import die_in, duration, life


class Ground:
    """A store, and one of each kind of thing, captured."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "files"
        self.work = self.root / "work"
        self.work.mkdir(parents=True)
        self.origin = folder / "origin"
        sow(self.origin)
        self.tree = Workspace(self.origin, Packs(self.root)).capture().tree
        self.told = census(self.origin)
        self.held: list[int] = []

    def spread(self, name: str = "r@b2") -> Path:
        """A new directory on the checkout, as a house begins in it; it stays in use."""
        (self.work / name).mkdir(exist_ok=True)
        packs, layers = Packs(self.root), Layers(self.root)
        fd = layers.again(name)
        with packs.writing():
            if fd is None:
                fd = layers.spread(name, self.tree, packs, ignore=(), least=1)
            assert fd is not None
            self.held.append(fd)
            files = Workspace(self.work / name, packs)
            layers.seed(name, files, packs, ignore=())
            files.restore(self.tree)
        packs.close()
        return self.work / name

    def files(self, path: Path) -> Workspace:
        return Workspace(path, Packs(self.root))

    def stranger(self, path: Path) -> bytes:
        """The capture of somebody who has seen nothing of it before."""
        return Workspace(path, Packs(self.folder / f"store-{os.urandom(4).hex()}")).capture().tree

    def restored(self, name: str) -> Path:
        """The same files, made in the portable way."""
        path = self.folder / name
        path.mkdir()
        self.files(path).restore(self.tree)
        return path

    def checkout(self) -> Census:
        return census(self.root / "checkouts" / self.tree.hex())

    def done_with(self, name: str) -> None:
        """Away with the layers of a directory."""
        (self.root / "layers" / name).rename(self.root / "layers" / f".{os.urandom(4).hex()}")

    def let_go(self) -> None:
        for fd in self.held:
            os.close(fd)
        self.held = []

    def collect(self) -> int:
        packs = Packs(self.root)
        try:
            return Layers(self.root).collect(packs)
        finally:
            packs.close()


def sow(root: Path) -> None:
    """One of each kind of thing that a workspace can hold, and a bit more."""
    (root / "deep" / "er").mkdir(parents=True)
    (root / "deep" / "er" / "file").write_bytes(random.Random(1).randbytes(5000))
    (root / "empty").mkdir()
    (root / "script").write_text("#!/bin/sh\n")
    (root / "script").chmod(0o755)
    (root / "private").write_text("secret")
    (root / "private").chmod(0o400)
    (root / "link").symlink_to("deep/er/file")
    (root / "nowhere").symlink_to("not/there")
    os.link(root / "script", root / "deep" / "tied")
    os.mkfifo(root / "pipe")
    with (root / "sparse").open("wb") as file:
        file.truncate(3_000_000)
        file.seek(1_000_000)
        file.write(b"in the middle")
    (root / os.fsdecode(b"not \xff utf-8")).write_text("text")
    (root / os.fsdecode(b"dir \xfe")).mkdir()
    (root / os.fsdecode(b"dir \xfe") / "inside").write_text("text")
    os.setxattr(root / "script", "user.note", b"kept")
    os.setxattr(root / "deep", "user.folder", b"kept too")
    os.setxattr(root, "user.root", b"and this")
    (root / "shut").mkdir()
    (root / "shut" / "file").write_text("text")
    (root / "shut").chmod(0o555)
    for number in range(30):
        (root / f"many{number}").write_text(str(number))
    os.utime(root / "deep" / "er" / "file", ns=(1, 1_234_567_890_123_456_789))
    os.utime(root / "link", ns=(1, 1_000_000_000_000_000_003), follow_symlinks=False)
    os.utime(root / "deep", ns=(1, 1_000_000_000_000_000_005))
    os.utime(root, ns=(1, 1_000_000_000_000_000_007))
    root.chmod(0o750)


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    if not mountable(tmp_path):
        pytest.skip("overlays can be mounted by root only, and not everywhere")
    made = Ground(tmp_path)
    yield made
    made.let_go()
    for path in (made.root / "layers").glob("*"):
        Layers(made.root).leave(path.name, patience_s=30)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text(), "a mount was left behind"


def test_what_is_shown_is_what_was_captured_to_the_last_attribute(ground: Ground) -> None:
    shown = ground.spread()
    assert census(shown) == ground.told == census(ground.restored("portable"))
    assert ground.stranger(shown) == ground.files(shown).capture().tree == ground.tree
    assert os.path.ismount(shown)


def test_a_directory_on_a_checkout_that_is_known_is_captured_without_reading_a_file(ground: Ground) -> None:
    ground.spread("first")
    shown = ground.spread("second")
    captured = ground.files(shown).capture()
    assert (captured.tree, captured.files_read) == (ground.tree, 0)
    assert list((ground.root / "layers" / "second" / "upper").iterdir()) == []


def _rename_over(root: Path) -> None:
    (root / "many2").rename(root / "many3")


def _swap(root: Path) -> None:
    (root / "many4").rename(root / "x")
    (root / "many5").rename(root / "many4")
    (root / "x").rename(root / "many5")


def _same_size_and_time(root: Path) -> None:
    before = (root / "many7").stat()
    (root / "many7").write_text("8")
    os.utime(root / "many7", ns=(before.st_atime_ns, before.st_mtime_ns))


def _folder_again(root: Path) -> None:
    shutil.rmtree(root / "deep")
    (root / "deep").mkdir()
    (root / "deep" / "new").write_text("new")


def _file_for_folder(root: Path) -> None:
    shutil.rmtree(root / "deep")
    (root / "deep").write_text("a file")


def _through_a_memory_map(root: Path) -> None:
    import mmap

    with (root / "deep" / "er" / "file").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:4] = b"maps"
        mapped.flush()


def _hole_filled(root: Path) -> None:
    with (root / "sparse").open("r+b") as file:
        file.seek(2_000_000)
        file.write(b"x")


CHANGES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda root: None,
    "content": lambda root: (root / "many1").write_text("changed"),
    "content, same size and time": _same_size_and_time,
    "appended": lambda root: (root / "deep" / "er" / "file").open("ab").write(b"more"),
    "through a memory map": _through_a_memory_map,
    "mode": lambda root: (root / "script").chmod(0o700),
    "mode of a folder": lambda root: (root / "deep").chmod(0o711),
    "mode of the root": lambda root: root.chmod(0o711),
    "time": lambda root: os.utime(root / "many1", ns=(5, 5)),
    "time of a folder": lambda root: os.utime(root / "empty", ns=(5, 5)),
    "attribute": lambda root: os.setxattr(root / "script", "user.note", b"other"),
    "attribute removed": lambda root: os.removexattr(root / "deep", "user.folder"),
    "attribute of the root": lambda root: os.setxattr(root, "user.root", b"other"),
    "removed": lambda root: (root / "many1").unlink(),
    "removed, deep": lambda root: (root / "deep" / "er" / "file").unlink(),
    "removed folder": lambda root: shutil.rmtree(root / "deep"),
    "removed empty folder": lambda root: (root / "empty").rmdir(),
    "folder made again": _folder_again,
    "a file for a folder": _file_for_folder,
    "renamed": lambda root: (root / "many1").rename(root / "other"),
    "renamed over": _rename_over,
    "swapped": _swap,
    "renamed folder": lambda root: os.rename(root / "deep", root / "moved"),
    "renamed folder, within": lambda root: os.rename(root / "deep" / "er", root / "er"),
    "name that is not UTF-8": lambda root: os.rename(os.fsencode(root) + b"/dir \xfe", os.fsencode(root) + b"/\xfd"),
    "hard link written to": lambda root: (root / "deep" / "tied").write_text("both"),
    "hard link, mode": lambda root: (root / "script").chmod(0o701),
    "hard link cut": lambda root: (root / "deep" / "tied").unlink(),
    "hard link cut, the first": lambda root: (root / "script").unlink(),
    "hard link added": lambda root: os.link(root / "script", root / "third"),
    "hard link of a single file": lambda root: os.link(root / "many1", root / "twin"),
    "symlink": lambda root: ((root / "link").unlink(), (root / "link").symlink_to("empty")),
    "pipe removed": lambda root: (root / "pipe").unlink(),
    "hole filled": _hole_filled,
    "cut off": lambda root: os.truncate(root / "sparse", 10),
    "added": lambda root: (root / "deep" / "new").write_text("new"),
    "added folder": lambda root: (root / "a" / "b" / "c").mkdir(parents=True),
    "in a shut folder": lambda root: (root / "shut" / "file").write_text("written by root"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_and_is_what_it_would_be_in_a_restored_directory(ground: Ground, change: str) -> None:
    shown, portable = ground.spread(), ground.restored("portable")
    known, base = ground.files(shown), ground.checkout()
    known.capture()
    for root in (shown, portable):
        CHANGES[change](root)
    assert census(shown, times=False) == census(portable, times=False)
    captured = known.capture().tree
    assert captured == ground.stranger(shown) == ground.files(shown).capture().tree
    assert (captured == ground.tree) == (change == "nothing")
    ground.let_go()
    assert Layers(ground.root).leave("r@b2", patience_s=30)
    ground.held.append(Layers(ground.root).again("r@b2") or -1)
    assert ground.files(shown).capture().tree == captured, "shown again, it is the same"
    ground.files(shown).restore(ground.tree)
    assert census(shown) == ground.told
    assert ground.checkout() == base == ground.told, "the checkout is never written to"


def test_two_directories_on_one_checkout_do_not_see_each_other(ground: Ground) -> None:
    one, two = ground.spread("one"), ground.spread("two")

    def work(root: Path) -> None:
        for number in range(30):
            (root / f"many{number}").write_text(root.name)
        shutil.rmtree(root / "deep")
        (root / root.name).write_text("mine")

    threads = [threading.Thread(target=work, args=(root,)) for root in (one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for root, other in ((one, two), (two, one)):
        assert {(root / f"many{number}").read_text() for number in range(30)} == {root.name}
        assert not (root / other.name).exists()
    assert census(ground.spread("three")) == ground.told == ground.checkout()


def test_it_is_not_taken_from_who_uses_it(ground: Ground) -> None:
    shown = ground.spread()
    assert not Layers(ground.root).leave("r@b2")
    assert ground.collect() == 0
    ground.let_go()
    process = subprocess.Popen(["sleep", "60"], cwd=shown)
    try:
        assert not Layers(ground.root).leave("r@b2")
        assert census(shown) == ground.told
    finally:
        process.kill()
        process.wait()
    assert Layers(ground.root).leave("r@b2", patience_s=30)
    assert not shown.exists()


def test_who_uses_it_for_a_moment_only_is_waited_for(ground: Ground) -> None:
    ground.spread()
    last = threading.Timer(0.3, ground.let_go)
    last.start()
    assert Layers(ground.root).leave("r@b2", patience_s=30)
    last.join()


def test_a_checkout_is_collected_when_nothing_stands_on_it(ground: Ground) -> None:
    shown = ground.spread()
    (shown / "many1").write_text("work of a day")
    (ground.root / "checkouts" / ".half").mkdir()
    ground.let_go()
    assert ground.collect() == 0
    assert [path.name for path in (ground.root / "checkouts").iterdir()] == [ground.tree.hex()]
    assert not shown.exists()
    ground.held.append(Layers(ground.root).again("r@b2") or -1)
    assert (shown / "many1").read_text() == "work of a day"
    ground.let_go()
    assert Layers(ground.root).leave("r@b2", patience_s=30)
    ground.done_with("r@b2")
    assert ground.collect() == 1
    assert list((ground.root / "checkouts").iterdir()) == []


def test_whoever_removes_all_that_he_sees_removes_nothing_of_the_checkout(ground: Ground) -> None:
    shown = ground.spread()
    shutil.rmtree(shown, ignore_errors=True)
    assert ground.checkout() == ground.told
    ground.files(shown).restore(ground.tree)
    assert census(shown) == ground.told


def test_what_was_left_in_its_place_is_moved_aside(ground: Ground, caplog: pytest.LogCaptureFixture) -> None:
    shown = ground.spread()
    ground.let_go()
    assert Layers(ground.root).leave("r@b2", patience_s=30)
    shown.mkdir()
    (shown / "letter").write_text("from somebody")
    ground.spread()
    assert census(shown) == ground.told
    assert [path.read_text() for path in ground.work.glob("r@b2.*/letter")] == ["from somebody"]
    assert "moved to" in caplog.text


def test_layers_that_are_put_aside_are_kept_whole_with_what_they_stand_on(ground: Ground) -> None:
    shown = ground.spread()
    (shown / "new").write_text("work of a day")
    ground.let_go()
    aside = Layers(ground.root).aside("r@b2")
    assert aside is not None
    assert not shown.exists()
    assert Layers(ground.root).again("r@b2") is None
    assert ground.collect() == 0
    assert (aside / "upper" / "new").read_text() == "work of a day"
    assert census(ground.spread()) == ground.told


def test_a_link_in_its_place_is_refused_and_nothing_is_mounted_behind_it(ground: Ground) -> None:
    shown, outside = ground.spread(), ground.folder / "outside"
    ground.let_go()
    assert Layers(ground.root).leave("r@b2", patience_s=30)
    outside.mkdir()
    shown.symlink_to(outside)
    with pytest.raises(Unwritable, match="cannot be mounted"):
        Layers(ground.root).again("r@b2")
    assert not os.path.ismount(outside)
    shown.unlink()
    base = ground.root / "checkouts" / ground.tree.hex()
    base.rename(ground.folder / "elsewhere")
    base.symlink_to(ground.folder / "elsewhere")
    with pytest.raises(Unwritable, match="cannot be mounted"):
        Layers(ground.root).again("r@b2")


@pytest.mark.parametrize("base", ["", "../../outside", "00" * 32])
def test_layers_that_stand_on_nothing_are_refused(ground: Ground, base: str) -> None:
    ground.spread()
    ground.let_go()
    assert Layers(ground.root).leave("r@b2", patience_s=30)
    (ground.root / "layers" / "r@b2" / "base").write_text(base)
    with pytest.raises(Unwritable, match="cannot be mounted"):
        Layers(ground.root).again("r@b2")


def test_a_checkout_that_somebody_wrote_to_is_not_believed(ground: Ground) -> None:
    ground.spread("first")
    ground.let_go()
    assert Layers(ground.root).leave("first", patience_s=30)
    (ground.root / "checkouts" / ground.tree.hex() / "many1").write_text("9")
    assert census(ground.spread("second")) == ground.told


def test_layers_in_use_behind_another_name_are_busy(ground: Ground) -> None:
    shown = ground.spread()
    inside = os.open(shown / "deep", os.O_RDONLY)
    subprocess.run(["umount", "-l", str(shown)], check=True)  # gone from sight, and still there
    try:
        with pytest.raises(Busy, match="cannot see"):
            Layers(ground.root).again("r@b2")
    finally:
        os.close(inside)
        ground.let_go()


def test_a_damaged_checkout_that_nobody_knows_is_not_stood_on(ground: Ground) -> None:
    """As after a power cut: nothing is known of it, and it has lost bytes."""
    ground.spread("first")
    (ground.root / "checkouts" / ground.tree.hex() / "many1").write_text("")
    shutil.rmtree(ground.root / "known")
    packs = Packs(ground.root)
    with packs.writing():
        assert Layers(ground.root).spread("second", ground.tree, packs, ignore=(), least=1) is None


def test_processes_that_begin_at_once_stand_on_one_checkout(ground: Ground) -> None:
    def begin(name: str) -> None:
        assert census(ground.spread(name)) == ground.told
        (ground.work / name / "done").write_text(name)

    for pid in [life(lambda name=name: begin(name)) for name in ("one", "two", "three", "four")]:
        os.waitpid(pid, 0)
    assert [path.name for path in (ground.root / "checkouts").iterdir()] == [ground.tree.hex()]
    for name in ("one", "two", "three", "four"):
        fd = Layers(ground.root).again(name)
        assert fd is not None
        os.close(fd)
        assert (ground.work / name / "done").read_text() == name


def test_a_full_disk_leaves_nothing_half_made(ground: Ground) -> None:
    small = ground.folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "none", str(small)], check=True)
    try:
        root = small / "files"
        (root / "work" / "r@b2").mkdir(parents=True)
        packs = Packs(root)
        with packs.writing():
            shutil.copytree(ground.root / "packs", root / "packs", dirs_exist_ok=True)
            (small / "ballast").write_bytes(bytes(os.statvfs(small).f_bavail * 4096 - 40_000))
            assert Layers(root).spread("r@b2", ground.tree, packs, ignore=(), least=1) is None
        packs.close()
        assert not list((root / "layers").glob("*"))
        assert not list((root / "checkouts").glob("*"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


WITHOUT = """
import sys
from pathlib import Path
from holdfast.workspace import Layers, Packs
root = Path(sys.argv[1])
packs = Packs(root)
with packs.writing():
    print(Layers(root).spread("r@b2", bytes.fromhex(sys.argv[2]), packs, ignore=(), least=1))
    Layers(root).again("r@b3")
"""


def test_without_the_right_to_mount_nothing_is_done(ground: Ground) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not there")
    command = ["setpriv", "--bounding-set=-sys_admin", sys.executable, "-c", WITHOUT, ground.root, ground.tree.hex()]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.stdout == "None\n", done.stderr
    assert not (ground.root / "layers").exists()
    assert not (ground.root / "checkouts").exists()
    ground.spread("r@b3")
    ground.let_go()
    assert Layers(ground.root).leave("r@b3", patience_s=30)
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert "run it where overlays may be mounted" in done.stderr


_STEPS = ("os.mkdir", "os.rename", "os.rmdir", "os.remove", "os.utime", "ctypes.dlsym", "os.setxattr", "shutil.rmtree")


def dies_at(step: int, work: Callable[[], object]) -> bool:
    """Whether a child that does `work` is killed right before its step of that number; else it has no so many."""

    def body() -> None:
        left = step

        def hook(event: str, _: object) -> None:
            nonlocal left
            if event in _STEPS:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), 9)

        sys.addaudithook(hook)
        work()

    _, status = os.waitpid(life(body), 0)
    return os.WIFSIGNALED(status)


def whole_life(ground: Ground) -> None:
    """A directory is made, used, let go, removed, and all that it stood on is collected."""
    mountable.cache_clear()
    ground.spread()
    ground.let_go()
    Layers(ground.root).leave("r@b2", patience_s=30)
    ground.done_with("r@b2")
    ground.collect()


def test_a_death_at_any_step_is_mended_by_the_next_life(ground: Ground) -> None:
    steps = 0
    stride = random.Random(7)
    while dies_at(steps, lambda: whole_life(ground)):
        shown = ground.spread()
        assert census(shown) == ground.told == ground.checkout()
        ground.let_go()
        assert Layers(ground.root).leave("r@b2", patience_s=30)
        ground.done_with("r@b2")
        ground.collect()
        assert list((ground.root / "checkouts").iterdir()) == []
        assert list(ground.root.glob(".*")) == []
        steps += 1 if steps < 12 else stride.randrange(1, 7)
    assert steps > 40


def test_deaths_at_work_lose_nothing_that_was_written(ground: Ground) -> None:
    shown = ground.spread()
    ground.let_go()

    def write() -> None:
        Layers(ground.root).again("r@b2")  # and it stays open until the end
        for number in range(200):
            (shown / f"new{number}").write_text("n")
        ground.files(shown).capture()

    needed = duration(write)
    for number in range(8):
        die_in(write, random.Random(number).random() * needed)
        fd = Layers(ground.root).again("r@b2")
        assert fd is not None
        os.close(fd)
        assert ground.files(shown).capture().tree == ground.stranger(shown)
    assert ground.checkout() == ground.told


def test_ten_thousand_files_are_shown_without_making_one(ground: Ground) -> None:
    big = ground.folder / "big"
    for number in range(10_000):
        path = big / f"part{number // 100}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(number))
    ground.tree, ground.told = ground.files(big).capture().tree, census(big)
    ground.spread("first")
    shown = ground.spread("second")
    assert census(shown) == ground.told
    assert sum(len(names) for _, _, names in os.walk(ground.root / "layers" / "second" / "upper")) == 0
    for number in range(0, 10_000, 1000):
        (shown / f"part{number // 100}" / f"file{number}").write_text("changed")
    captured = ground.files(shown).capture()
    assert captured.files_read == 10
    assert captured.tree == ground.stranger(shown)
