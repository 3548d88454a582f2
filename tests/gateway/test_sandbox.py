"""What a sandboxed program gets, sees and reaches."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import socket
import sys
from pathlib import Path
from typing import cast

import pytest

from holdfast.errors import Misuse
from holdfast.gateway.confinement import Confinement, own_python
from holdfast.gateway.sandbox import Doors, launch
from holdfast.workspace import Packs, Workspace
from holdfast.workspace.freeze import begun, frozen
from tests.gateway.cell import PATH, alive, closed, gone, names, needed, of_process, python, said, sleeper, until


@pytest.fixture(autouse=True)
def sandboxes() -> None:
    needed()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    made = tmp_path / "workspace"
    made.mkdir()
    return made


async def test_a_program_gets_exactly_the_environment_that_it_was_given() -> None:
    given = {"KEY": "value = ü", "EMPTY": "", "PATH": "/usr/bin"}
    code, text = await said(python("import os, json; print(json.dumps(dict(os.environ)))"), environment=given)
    assert code == 0
    assert json.loads(text) == {**given, "PWD": "/tmp"} | ({"LC_CTYPE": "C.UTF-8"} if "LC_CTYPE" in text else {})


async def test_the_environment_is_in_no_environment_and_on_no_command_line_of_the_host() -> None:
    """What is for the program is not for bubblewrap: its loader would heed LD_PRELOAD, outside."""
    mark, canary = secrets.token_hex(8), secrets.token_hex(8)
    given = {**PATH, "CANARY": canary}
    confined = await launch(Confinement(), sleeper(mark), given, listen=closed)
    async with confined:
        found = [of_process(pid, "cmdline") for pid in alive(mark)]
        assert found
        assert not [words for words in found if canary.encode() in words]
        assert of_process(confined.pid, "environ") == b""


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A gateway of the smallest kind: says how many requests this connection has made."""
    number = 0
    while request := await reader.readline():
        while (await reader.readline()).strip():
            pass
        number += 1
        text = f"{request.split()[1].decode()} {number}\n".encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
        await writer.drain()
    writer.close()


async def serving(doors: Doors) -> None:
    for port, some in doors.items():
        for door in some:
            if port != 53:
                await asyncio.start_server(answer, sock=door)


CLIENT = """
import http.client
for host in ("127.0.0.1", "::1"):
    for port in (8080, 443):
        line = http.client.HTTPConnection(host, port, timeout=30)
        for _ in range(3):
            line.request("GET", f"/{host}/{port}")
            print(line.getresponse().read().decode(), end="")
"""


async def test_a_client_inside_reaches_the_gateway_and_keeps_its_connection() -> None:
    code, text = await said(python(CLIENT), confinement=Confinement(ports=(8080, 443)), listen=serving)
    assert code == 0
    places = [f"/{host}/{port}" for host in ("127.0.0.1", "::1") for port in (8080, 443)]
    assert text.splitlines() == [f"{place} {number}" for place in places for number in (1, 2, 3)]


async def test_curl_inside_reaches_the_gateway() -> None:
    if not os.access("/usr/bin/curl", os.X_OK):
        pytest.skip("curl is not installed")
    code, text = await said(["curl", "-sS", "http://localhost:8080/x"], listen=serving)
    assert (code, text) == (0, "/x 1\n")


class Names(asyncio.DatagramProtocol):
    """Answers every question for an IPv4 address with 127.0.0.1, and has no other answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        question = data[12 : data.index(b"\0", 12) + 5]
        address = question[-4:-2] == b"\0\x01"
        head = data[:2] + b"\x81\x80\0\x01" + (b"\0\x01" if address else b"\0\0") + b"\0\0\0\0"
        record = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x7f\0\0\x01" if address else b""
        self.transport.sendto(head + question + record, addr)


async def test_names_are_asked_of_the_gateway() -> None:
    async def listen(doors: Doors) -> None:
        await serving(doors)
        await asyncio.get_running_loop().create_datagram_endpoint(Names, sock=doors[53][0])

    program = "import socket; print(socket.getaddrinfo('api.example.com', 443, socket.AF_INET)[0][4])"
    code, text = await said(python(program), confinement=Confinement(dns=True), listen=listen)
    assert (code, text) == (0, "('127.0.0.1', 443)\n")


async def test_nothing_starts_before_the_gateway_listens(workspace: Path) -> None:
    seen: list[bool] = []

    async def listen(doors: Doors) -> None:
        await asyncio.sleep(0.3)
        seen.append((workspace / "started").exists())
        await serving(doors)

    code, _text = await said(["touch", "started"], confinement=Confinement(workspace=workspace), listen=listen)
    assert (code, seen, (workspace / "started").exists()) == (0, [False], True)


async def test_if_the_gateway_cannot_listen_nothing_is_started(workspace: Path) -> None:
    mark = secrets.token_hex(8)

    async def listen(doors: Doors) -> None:
        await closed(doors)
        assert alive(mark), "it waits"
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        await launch(Confinement(workspace=workspace), ["touch", "started", mark], PATH, listen=listen)
    assert gone(mark)
    assert names(workspace) == []


async def test_a_launch_that_is_given_up_leaves_nothing(workspace: Path) -> None:
    mark = secrets.token_hex(8)
    listening = asyncio.Event()

    async def listen(doors: Doors) -> None:
        listening.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(
        launch(Confinement(workspace=workspace), ["touch", "started", mark], PATH, listen=listen)
    )
    await listening.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gone(mark)
    assert names(workspace) == []


@pytest.mark.parametrize(
    ("program", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", -15), ("kill -9 $$", -9)]
)
async def test_the_exit_code_is_the_programs(program: str, code: int) -> None:
    assert await said(["sh", "-c", program]) == (code, "")


async def test_a_program_that_is_not_there_ends_with_an_error() -> None:
    code, text = await said(["no-such-program"])
    assert code == 1
    assert "no-such-program" in text


async def test_the_streams_are_those_that_are_named() -> None:
    read, write = os.pipe()
    os.write(write, b"from outside")
    os.close(write)
    code, text = await said(["cat"], stdin=read)
    os.close(read)
    assert (code, text) == (0, "from outside")


async def test_only_the_workspace_and_temporary_files_can_be_written(workspace: Path) -> None:
    program = """
import os
for folder in ("/workspace", "/tmp", "/dev/shm", "/", "/usr", "/etc", "/proc", "/dev", "/usr/bin"):
    try:
        open(folder + "/x", "w").write("mine")
    except OSError:
        continue
    print(folder)
"""
    code, text = await said(python(program), confinement=Confinement(workspace=workspace))
    assert (code, text.split()) == (0, ["/workspace", "/tmp", "/dev/shm"])
    assert (workspace / "x").read_text() == "mine"


async def test_what_is_shown_can_be_read_and_not_written(tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    shown.mkdir()
    (shown / "file").write_text("to read")
    (tmp_path / "beside").write_text("hidden")
    program = f"cat {shown}/file; echo; ls {tmp_path}; touch {shown}/x 2>/dev/null || echo no"
    code, text = await said(["sh", "-c", program], confinement=Confinement(read_only=(shown,)))
    assert (code, text) == (0, "to read\nshown\nno\n")


async def test_this_interpreter_runs_inside_wherever_it_lies() -> None:
    confinement = Confinement(read_only=own_python())
    code, text = await said([sys.executable, "-c", "import cryptography; print('yes')"], confinement=confinement)
    assert (code, text) == (0, "yes\n")


async def test_files_of_the_gateway_can_be_read_inside() -> None:
    code, text = await said(["cat", "/etc/holdfast/ca.pem"], files={"/etc/holdfast/ca.pem": "a certificate\n"})
    assert (code, text) == (0, "a certificate\n")


async def test_two_sandboxes_do_not_see_each_other() -> None:
    places = """
import os, socket, time
PLACES = (socket.AF_INET, ("127.0.0.1", 9000)), (socket.AF_UNIX, "\\0mine"), (socket.AF_UNIX, "/tmp/mine")
"""
    host = f"""{places}
doors = [socket.socket(family) for family, _ in PLACES]
for door, (_, address) in zip(doors, PLACES):
    door.bind(address)
    door.listen()
print("up", flush=True)
time.sleep(1000)
"""
    guest = f"""{places}
for family, address in PLACES:
    try:
        socket.socket(family).connect(address)
        print("reached", address)
    except OSError:
        pass
print(len([name for name in os.listdir("/proc") if name.isdigit()]))
"""
    read, write = os.pipe()
    first = await launch(Confinement(), python(host), PATH, listen=closed, stdout=write)
    os.close(write)
    async with first:
        assert await asyncio.to_thread(os.read, read, 16) == b"up\n"
        os.close(read)
        assert await said(python(guest)) == (0, "2\n")


async def test_killing_a_sandbox_kills_all_that_came_of_it() -> None:
    mark = secrets.token_hex(8)
    program = 'for i in 1 2 3; do setsid "$@" & done; wait'
    confined = await launch(Confinement(), ["sh", "-c", program, "sh", *sleeper(mark)], PATH, listen=closed)
    assert await asyncio.to_thread(until, lambda: len(alive(mark)) >= 6)  # with bubblewrap's two, and the shell
    confined.kill()
    assert await confined.wait() == -9
    assert alive(mark) == []
    confined.kill()  # once more does nothing


async def test_what_a_program_leaves_behind_ends_with_it() -> None:
    mark = secrets.token_hex(8)
    program = 'setsid "$@" >/dev/null 2>&1 & echo started'
    assert await said(["sh", "-c", program, "sh", *sleeper(mark)]) == (0, "started\n")
    assert gone(mark)


async def test_many_sandboxes_start_at_once() -> None:
    found = await asyncio.gather(*(said(["echo", str(number)]) for number in range(24)))
    assert found == [(0, f"{number}\n") for number in range(24)]


async def test_links_and_pipes_that_a_program_leaves_do_not_lead_the_host_astray(
    tmp_path: Path, workspace: Path
) -> None:
    """The host captures the workspace. It keeps the link, not what the link points at, and does not hang."""
    secret = tmp_path / "secret"
    secret.write_text("of the host, 4711")
    program = f"""
import os
os.symlink({str(secret)!r}, "link")
os.symlink("/", "all")
os.mkfifo("pipe")
open("file", "w").write("mine")
os.link("file", "second")
for target in ("/usr/bin/env", "/etc/passwd", "/proc/1/environ"):
    try:
        os.link(target, "hard"); print("linked", target)
    except OSError:
        pass
"""
    confined = await launch(
        Confinement(workspace=workspace), python(f"{program}\nimport time; time.sleep(1000)"), PATH, listen=closed
    )
    async with confined:
        assert await asyncio.to_thread(until, (workspace / "second").exists)
        packs = Packs(tmp_path / "store")
        with packs.writing(), frozen([confined.pid, *begun(confined.pid)]):
            tree = Workspace(workspace, packs).capture().tree
    (tmp_path / "again").mkdir()
    Workspace(tmp_path / "again", Packs(tmp_path / "store")).restore(tree)
    again = tmp_path / "again"
    assert os.readlink(again / "link") == str(secret)
    assert names(again) == ["all", "file", "link", "pipe", "second"]
    assert (again / "pipe").is_fifo()
    assert all(b"4711" not in path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())


@pytest.mark.parametrize("path", ["/", "/proc", "/dev/sda", "/etc", "relative"])
def test_what_would_undo_a_sandbox_cannot_be_shown(path: str) -> None:
    with pytest.raises(Misuse, match="cannot be shown"):
        Confinement(read_only=(Path(path),))


@pytest.mark.parametrize(
    ("argv", "environment", "why"),
    [
        ([], {}, "no command"),
        (["a\0b"], {}, "no command"),
        (["true"], {"A=B": ""}, "variable"),
        (["true"], {"A": "\0"}, "variable"),
    ],
)
async def test_what_no_process_can_be_given_is_refused(argv: list[str], environment: dict[str, str], why: str) -> None:
    with pytest.raises(Misuse, match=why):
        await launch(Confinement(), argv, environment, listen=closed)


async def test_a_workspace_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="not a directory"):
        await launch(Confinement(workspace=tmp_path / "none"), ["true"], PATH, listen=closed)


async def test_a_sandbox_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="none: No such file or directory"):
        await launch(Confinement(read_only=(tmp_path / "none",)), ["true"], PATH, listen=closed)


def test_the_class_of_a_sandbox_does_not_depend_on_where_its_workspace_lies(tmp_path: Path) -> None:
    here, there = Confinement(workspace=tmp_path / "a"), Confinement(workspace=tmp_path / "b")
    assert here.digest() == there.digest()
    assert here.digest() != Confinement().digest()
    assert here.digest() != Confinement(workspace=tmp_path / "a", dns=True).digest()


async def test_the_host_cannot_be_reached_from_inside_by_its_own_loopback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = f"import socket; socket.create_connection(('127.0.0.1', {port}), 30)"
        code, text = await said(python(program))
    assert code == 1
    assert "ConnectionRefusedError" in text


def test_node_inside_reaches_the_gateway() -> None:
    if not (node := shutil.which("node", path="/usr/bin")):
        pytest.skip("node is not installed in /usr/bin")
    program = "fetch('http://127.0.0.1:8080/n').then(r => r.text()).then(t => process.stdout.write(t))"
    assert asyncio.run(said([node, "-e", program], listen=serving)) == (0, "/n 1\n")
