"""The same steps where a flush takes a millisecond longer, as on the network disks that servers have.

A local disk that flushes in 60 µs leaves little to share or to save: there the floor is nearly as fast as SQLite
without any flush. So the ratios are measured here a second time, with a delay before each fsync and fdatasync of ours
and of the floor alike.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

DELAY_MS = 1
SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
static int later(const char *name, int fd) {
    struct timespec delay = {0, DELAY_MS * 1000000L};
    nanosleep(&delay, 0);
    return ((int (*)(int))dlsym(RTLD_NEXT, name))(fd);
}
int fsync(int fd) { return later("fsync", fd); }
int fdatasync(int fd) { return later("fdatasync", fd); }
"""


def made(folder: Path) -> Path | str:
    """A library to be loaded before libc's; or why there is none."""
    compiler = shutil.which("gcc")
    if compiler is None:
        return "there is no gcc"
    source, library = folder / "slow.c", folder / "slow.so"
    source.write_text(SOURCE)
    command = [compiler, "-shared", "-fPIC", "-O1", f"-DDELAY_MS={DELAY_MS}", str(source), "-o", str(library), "-ldl"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return library if ran.returncode == 0 else f"it could not be compiled: {ran.stderr[-300:]}"
