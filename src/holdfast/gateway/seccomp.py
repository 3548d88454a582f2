"""What a sandboxed process may ask of the kernel: a filter in classic BPF, assembled here.

Rules
1. Namespaces do not stop everything: vsock, netlink, packet and crypto sockets, io_uring, new namespaces and debugging
   pass through an empty network. What passes is refused here.
2. A system call that this file has never heard of is refused: a newer kernel brings no new way out.
3. Only the low half of an argument is compared where the kernel looks at no more: the high half is the caller's to
   choose, and a filter that compares it is walked around.
4. A foreign instruction set (32 bit on a 64-bit kernel) ends the process.

Source: seccomp(2), linux/filter.h, and the system call tables of the kernel.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from holdfast.errors import Misuse

ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000  # REFUSE + an errno
_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_EQUAL, _GREATER, _ANY_BIT = 0x15, 0x25, 0x45
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

NEWEST = 469  # file_setattr, of Linux 6.17; x32's numbers are far above
NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
UNIX, INET, INET6 = 1, 2, 10
STREAM, DATAGRAM, KIND_OF_SOCKET = 1, 2, 0xF
TCP, UDP = 6, 17
TERMINAL = (0x5412, 0x541C, 0x541D, 0x5423)  # TIOCSTI types for others, TIOCLINUX, TIOCCONS, TIOCSETD
PERSONALITIES = (0, 0xFFFFFFFF)  # Linux as it is, and the question which one it is

# name: number on x86_64, number on aarch64; refused with EPERM
REFUSED: dict[str, tuple[int | None, int | None]] = {
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "kcmp": (312, 272), "process_madvise": (440, 440), "move_pages": (279, 239), "migrate_pages": (256, 238),
    # large and young parts of the kernel
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "userfaultfd": (323, 282), "bpf": (321, 280), "perf_event_open": (298, 241), "modify_ldt": (154, None),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "lsm_set_self_attr": (460, 460),
    # namespaces and mounts
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "move_mount": (429, 429), "open_tree": (428, 428), "open_tree_attr": (467, 467),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "statmount": (457, 457), "listmount": (458, 458),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    # the machine
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "syslog": (103, 116), "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "sethostname": (170, 161), "setdomainname": (171, 162), "iopl": (172, None), "ioperm": (173, None),
    "vhangup": (153, 58), "nfsservctl": (180, 42), "lookup_dcookie": (212, 18), "uselib": (134, None),
    "ustat": (136, None), "sysfs": (139, None), "_sysctl": (156, None),
    # memory that no limit of a process counts: it outlives whoever made it, or belongs to nobody
    "shmget": (29, 194), "msgget": (68, 186), "memfd_secret": (447, 447),
}  # fmt: skip
# Libraries that hear ENOSYS take the older way, which can be judged: clone3 hides its flags behind a pointer.
UNKNOWN: dict[str, tuple[int, int]] = {"clone3": (435, 435), "memfd_create": (319, 279)}
JUDGED: dict[str, tuple[int, int]] = {
    "socket": (41, 198), "socketpair": (53, 199), "clone": (56, 220), "ioctl": (16, 29), "personality": (135, 92),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Machine:
    """An instruction set: which column of the tables is its, and how the kernel names it."""

    column: int
    audit: int


MACHINES = {"x86_64": Machine(0, 0xC000003E), "aarch64": Machine(1, 0xC00000B7)}

Line = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


@cache
def program(machine: str) -> bytes:
    """The filter for `machine` (as `platform.machine()` names it), as an array of struct sock_filter.

    Raises Misuse for a machine whose system calls are not listed here."""
    if machine not in MACHINES:
        raise Misuse(f"no filter of system calls is known for {machine}", fix=f"one of {', '.join(MACHINES)}")
    kind = MACHINES[machine]
    lines: list[Line] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, kind.audit),
        (_RETURN, 0, 0, KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_GREATER, 0, 1, NEWEST),
        _refuse(errno.ENOSYS),
    ]
    for numbers in REFUSED.values():
        number = numbers[kind.column]
        if number is not None:
            lines += _on(number, [_refuse(errno.EPERM)])
    for numbers in UNKNOWN.values():
        lines += _on(numbers[kind.column], [_refuse(errno.ENOSYS)])
    for name, judge in _judges().items():
        lines += _on(JUDGED[name][kind.column], judge)
    lines.append((_RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def _judges() -> dict[str, list[Line]]:
    refused = _refuse(errno.EPERM)
    allowed: Line = (_RETURN, 0, 0, ALLOW)
    return {
        "socket": [
            *_only(0, (UNIX, INET, INET6), _refuse(errno.EAFNOSUPPORT)),
            (_EQUAL, 0, 1, UNIX),
            allowed,
            _argument(1),
            (_AND, 0, 0, KIND_OF_SOCKET),
            *_among((STREAM, DATAGRAM), _refuse(errno.EPROTONOSUPPORT)),
            *_only(2, (0, TCP, UDP), _refuse(errno.EPROTONOSUPPORT)),
            allowed,
        ],
        "socketpair": [*_only(0, (UNIX,), _refuse(errno.EAFNOSUPPORT)), allowed],
        "clone": [_argument(0), (_ANY_BIT, 0, 1, NEW_NAMESPACES), refused, allowed],
        "ioctl": [_argument(1), *(line for cmd in TERMINAL for line in _on(cmd, [refused])), allowed],
        "personality": [*_only(0, PERSONALITIES, refused), allowed],
    }


def _refuse(number: int) -> Line:
    return (_RETURN, 0, 0, REFUSE | number)


def _argument(position: int) -> Line:
    """Load the low half of an argument (both machines are little-endian)."""
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * position)


def _on(value: int, then: Sequence[Line]) -> list[Line]:
    """If what is loaded is `value`: `then`, which does not fall out of its end unless it means to."""
    return [(_EQUAL, 0, len(then), value), *then]


def _among(values: Sequence[int], otherwise: Line) -> list[Line]:
    """Go on if what is loaded is one of `values`."""
    last = len(values)
    return [*((_EQUAL, last - place, 0, value) for place, value in enumerate(values)), otherwise]


def _only(position: int, values: Sequence[int], otherwise: Line) -> list[Line]:
    return [_argument(position), *_among(values, otherwise)]
