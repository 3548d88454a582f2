"""The filter of system calls, run here as the kernel would run it, for both instruction sets."""

from __future__ import annotations

import errno
import platform
import re
import socket
import struct
from pathlib import Path

import pytest

from holdfast.errors import Misuse
from holdfast.gateway.seccomp import JUDGED, REFUSED, UNKNOWN, program

ALLOWED, KILLED = "allowed", "killed"
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"),
    "aarch64": ("/usr/include/asm-generic/unistd.h",),
}
HIGH = 0x1_0000_0000  # a bit that the kernel drops where it takes an int


def verdict(machine: str, number: int, *arguments: int, audit: int | None = None) -> str | int:
    """What the filter says of a call: allowed, killed, or an errno."""
    arguments = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    told = struct.pack("=iIQ6Q", number, AUDIT[machine] if audit is None else audit, 0, *arguments)
    lines = list(struct.iter_unpack("=HBBI", program(machine)))
    held, at = 0, 0
    while True:
        code, yes, no, operand = lines[at]
        at += 1
        if code == 0x20:
            held = struct.unpack_from("=I", told, operand)[0]
        elif code == 0x54:
            held &= operand
        elif code == 0x15:
            at += yes if held == operand else no
        elif code == 0x25:
            at += yes if held > operand else no
        elif code == 0x45:
            at += yes if held & operand else no
        elif code == 0x06:
            return {0x7FFF0000: ALLOWED, 0x80000000: KILLED}.get(operand, operand & 0xFFFF)
        else:
            raise AssertionError(f"no such instruction: {code:#x}")


def number(machine: str, name: str) -> int:
    found = {**REFUSED, **UNKNOWN, **JUDGED}[name][list(AUDIT).index(machine)]
    assert found is not None
    return found


machines = pytest.mark.parametrize("machine", AUDIT)


@machines
def test_what_is_refused_is_refused_whatever_its_arguments_are(machine: str) -> None:
    for numbers, error in ((REFUSED, errno.EPERM), (UNKNOWN, errno.ENOSYS)):
        for name in numbers:
            one = numbers[name][list(AUDIT).index(machine)]
            if one is not None:
                assert verdict(machine, one) == verdict(machine, one, *[2**64 - 1] * 6) == error, name


@machines
def test_the_numbers_are_those_of_the_kernels_headers(machine: str) -> None:
    header = next((path for path in map(Path, HEADERS[machine]) if path.exists()), None)
    if header is None:
        pytest.skip("the kernel's headers are not installed")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())
    listed = {name: int(text) for name, text in reversed(found)}
    column = list(AUDIT).index(machine)
    ours = {name: both[column] for name, both in {**REFUSED, **UNKNOWN, **JUDGED}.items() if both[column] is not None}
    assert {name: one for name, one in ours.items() if name in listed and listed[name] != one} == {}
    assert len(ours.keys() & listed.keys()) > 60


@machines
def test_another_instruction_set_ends_the_process(machine: str) -> None:
    assert verdict(machine, 0, audit=0x40000003) == KILLED
    assert verdict(machine, 0, audit=AUDIT[next(other for other in AUDIT if other != machine)]) == KILLED


@machines
@pytest.mark.parametrize("number", [470, 500, 512, 547, 0x40000000, 0x40000027, 0x7FFFFFFF])
def test_a_call_that_nobody_has_heard_of_is_not_known(machine: str, number: int) -> None:
    assert verdict(machine, number) == errno.ENOSYS


@machines
def test_ordinary_calls_are_allowed(machine: str) -> None:
    ordinary = {"x86_64": [0, 1, 2, 3, 9, 13, 42, 49, 59, 231, 257, 262, 302], "aarch64": [56, 63, 64, 221, 222, 261]}
    assert {verdict(machine, one) for one in ordinary[machine]} == {ALLOWED}


SOCKETS = [
    ((socket.AF_UNIX, socket.SOCK_STREAM, 0), ALLOWED),
    ((socket.AF_UNIX, socket.SOCK_SEQPACKET, 0), ALLOWED),
    ((socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP), ALLOWED),
    ((socket.AF_INET, socket.SOCK_DGRAM, 0), ALLOWED),
    ((socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_UDP), ALLOWED),
    ((socket.AF_INET6, socket.SOCK_RAW, 0), errno.EPROTONOSUPPORT),
    ((socket.AF_INET, socket.SOCK_DGRAM, 1), errno.EPROTONOSUPPORT),
    ((socket.AF_INET, socket.SOCK_SEQPACKET, 132), errno.EPROTONOSUPPORT),
    ((socket.AF_INET, socket.SOCK_STREAM, 262), errno.EPROTONOSUPPORT),
    ((0, 0, 0), errno.EAFNOSUPPORT),
    ((16, 3, 0), errno.EAFNOSUPPORT),
    ((17, 3, 0), errno.EAFNOSUPPORT),
    ((38, 5, 0), errno.EAFNOSUPPORT),
    ((40, 1, 0), errno.EAFNOSUPPORT),
]


@machines
@pytest.mark.parametrize(("words", "expected"), SOCKETS)
@pytest.mark.parametrize("high", [0, HIGH])
def test_a_socket_is_of_a_kind_that_ends_at_the_loopback(
    machine: str, words: tuple[int, int, int], expected: str | int, high: int
) -> None:
    assert verdict(machine, number(machine, "socket"), *(int(word) | high for word in words)) == expected


@machines
def test_pairs_of_sockets_are_of_one_kind(machine: str) -> None:
    assert verdict(machine, number(machine, "socketpair"), socket.AF_UNIX, socket.SOCK_STREAM) == ALLOWED
    assert verdict(machine, number(machine, "socketpair"), 30, socket.SOCK_STREAM) == errno.EAFNOSUPPORT


@machines
@pytest.mark.parametrize("flag", [0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000])
def test_a_process_is_begun_in_no_new_namespace(machine: str, flag: int) -> None:
    assert verdict(machine, number(machine, "clone"), 0x3D0F00) == ALLOWED  # a thread, as the C library begins it
    assert verdict(machine, number(machine, "clone"), flag | 17) == errno.EPERM


@machines
@pytest.mark.parametrize("request_", [0x5412, 0x541C, 0x541D, 0x5423])
def test_nothing_is_typed_into_a_terminal_however_it_is_asked(machine: str, request_: int) -> None:
    ioctl = number(machine, "ioctl")
    assert verdict(machine, ioctl, 0, request_) == verdict(machine, ioctl, 0, request_ | HIGH) == errno.EPERM
    assert verdict(machine, ioctl, 0, 0x5413) == ALLOWED  # the size of the window


@machines
def test_a_process_stays_what_it_is(machine: str) -> None:
    personality = number(machine, "personality")
    assert verdict(machine, personality, 0xFFFFFFFF) == verdict(machine, personality, 0) == ALLOWED
    assert verdict(machine, personality, 0x0040000) == errno.EPERM


def test_a_machine_without_a_filter_has_no_sandbox() -> None:
    with pytest.raises(Misuse, match="riscv64"):
        program("riscv64")


def test_this_machine_has_a_filter() -> None:
    if platform.machine() not in AUDIT:
        pytest.skip(f"no sandbox on {platform.machine()}")
    assert len(program(platform.machine())) % 8 == 0
