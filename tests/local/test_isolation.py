"""What runs in an isolated local box sees nothing of the machine, keeps running, and ends with its box."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from boxflow.boxes import Box
from boxflow.errors import BoxStateError, NotSupportedError, SandboxError, SandboxUnavailableError
from boxflow.ports import BoxSpec, BoxStatus, Egress, ProcessSpec, TerminalSize
from boxflow_backends.local_sandbox import LocalSandbox, ProcessLimits
from boxflow_backends.local_sandbox.proc import namespace_of

from .support import LocalBox, Screen, appears, local_box, pids_of

pytestmark = pytest.mark.real

# Leaves its session, its parents and its environment: in a plain box nothing leads to it.
_DAEMON = "env -i setsid sh -c 'echo up > up; while :; do sleep 0.2; done' daemon-{0} >/dev/null 2>&1 &"


@pytest.fixture(autouse=True)
def _needs_bubblewrap(need: Callable[[str, bool], None]) -> None:
    need("bwrap", shutil.which("bwrap") is not None)


async def test_files_of_the_machine_are_not_there_and_programs_cannot_be_changed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    secret.chmod(0o644)
    async with local_box(tmp_path / "root", isolation="bubblewrap") as box:
        for path in (secret, tmp_path / "root" / box.id / "box.json", "/etc/shadow", "/etc/hostname", "/root", "/home"):
            assert (await box.run(f"ls {path}"))[0] != 0, path
        for path in ("/usr/new", "/new", "/etc/new", "/bin/new"):
            assert (await box.run(f"echo x > {path}"))[0] != 0, path
        # In a temporary directory of its own.
        await box.run(f"echo x > {tmp_path}/new")
        assert not (tmp_path / "new").exists()
        assert (await box.run("find / -xdev -newer /proc/1 -type f; id -un; id -u; cat $HOME/.x; true"))[0] == 0
        assert (await box.run("id -u"))[1].strip() == str(os.getuid() or 1000)
        assert (await box.run("cat /proc/self/status | grep -E 'Cap(Inh|Prm|Eff|Amb)|NoNewPrivs'"))[1].split()[
            1::2
        ] == [
            *(["0" * 16] * 4),
            "1",
        ]


async def test_processes_of_the_machine_are_neither_seen_nor_signalled(tmp_path: Path) -> None:
    async with local_box(tmp_path, isolation="bubblewrap") as box:
        shown = (await box.run("ls -d /proc/[0-9]* | wc -l"))[1]
        assert int(shown) < 10
        assert (await box.run(f"kill -0 {os.getpid()}"))[0] != 0
        assert "BOXFLOW_SET_" not in (await box.run("tr '\\0' '\\n' < /proc/self/environ; env"))[1]


async def test_no_namespace_can_be_made_or_joined_to_gain_rights(tmp_path: Path) -> None:
    async with local_box(tmp_path, isolation="bubblewrap") as box:
        for attempt in ("unshare -Ur true", "unshare -m true", "nsenter -t 1 -a true", "mount -t tmpfs x /tmp"):
            assert (await box.run(attempt))[0] != 0, attempt


async def test_a_library_of_the_box_is_not_loaded_on_the_way_in(tmp_path: Path) -> None:
    async with local_box(tmp_path, isolation="bubblewrap") as box:
        # A loader that cannot load says so, once for each program.
        status, out, err = await box.run("echo $LD_PRELOAD", env={"LD_PRELOAD": "./not-there.so"})
        assert (status, out) == (0, "./not-there.so\n")
        assert err.count("not-there.so") <= 2


async def test_variables_with_odd_names_and_those_that_a_shell_keeps_are_no_danger(tmp_path: Path) -> None:
    async with local_box(tmp_path, isolation="bubblewrap") as box:
        env = {"UID": "7", "PPID": "7", "odd-name": "x", "BASH_ENV": "/nowhere", "IFS": "x", "PATH": "/usr/bin:/bin"}
        assert (await box.run("echo fine", env=env))[:2] == (0, "fine\n")


async def test_without_a_network_nothing_is_reached_but_the_box_itself(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        connect = f"python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {port}), 2)'"
        async with local_box(tmp_path, isolation="bubblewrap") as box:
            assert (await box.run(connect))[0] != 0
            assert (await box.run("python3 -c 'import socket; socket.create_server((\"localhost\", 80))'"))[0] in (0, 1)
            assert (await box.run("ls /sys/class/net; cat /proc/net/dev | grep -c :"))[1].strip() == "1"
        async with local_box(tmp_path, BoxSpec(network="open"), isolation="bubblewrap") as box:
            assert (await box.run(connect))[0] == 0


async def test_what_is_left_in_the_background_goes_on_and_is_seen_by_the_next_command(tmp_path: Path) -> None:
    async with local_box(tmp_path, isolation="bubblewrap") as box:
        await box.run("setsid sh -c 'echo $$ > pid; exec sleep 600' >/dev/null 2>&1 &")
        pid = (await appears(tmp_path / box.id / "work" / "pid")).strip()
        assert (await box.run(f"tr '\\0' ' ' < /proc/{pid}/cmdline"))[1] == "sleep 600 "
        assert (await box.run(f"kill {pid}"))[0] == 0


async def test_a_job_runs_once_and_its_output_is_found_by_another_engine(tmp_path: Path) -> None:
    async with local_box(tmp_path, isolation="bubblewrap") as local:
        box = Box(local.sandbox, box_id=local.id, name="box", spec=BoxSpec())
        await box.jobs.start("echo begun; until [ -e go ]; do sleep 0.05; done; echo done; exit 3", job_id="job")
        async with LocalSandbox(tmp_path, isolation="bubblewrap") as sandbox:
            other = Box(sandbox, box_id=local.id, name="box", spec=BoxSpec())
            await other.files.write("go", "")
            result = await other.jobs.wait("job", timeout=30)
            assert (result.exit_code, result.stdout) == (3, "begun\ndone\n")


async def test_delete_ends_a_daemon_that_nothing_leads_to(tmp_path: Path) -> None:
    async with local_box(tmp_path, isolation="bubblewrap") as box:
        await box.run(_DAEMON.format(box.id))
        await appears(tmp_path / box.id / "work" / "up")
        assert len(pids_of(f"daemon-{box.id}")) == 1
        await box.sandbox.delete(box.id)
        assert pids_of(f"daemon-{box.id}") == []


async def test_a_pause_reaches_a_daemon_that_nothing_leads_to(tmp_path: Path) -> None:
    async with local_box(tmp_path, isolation="bubblewrap") as box:
        ticking = "env -i setsid sh -c 'while :; do date +%N > t.new; mv t.new t; done' >/dev/null 2>&1 &"
        await box.run(ticking)
        tick = tmp_path / box.id / "work" / "t"
        await appears(tick)
        await box.sandbox.pause(box.id)
        before = tick.read_text()
        await asyncio.sleep(0.3)
        assert tick.read_text() == before
        await box.sandbox.resume(box.id)
        async with asyncio.timeout(10):
            while tick.read_text() == before:
                await asyncio.sleep(0.01)


async def test_nothing_in_the_box_can_end_its_first_process(tmp_path: Path) -> None:
    async with local_box(tmp_path, isolation="bubblewrap") as box:
        await box.run("kill -9 1; kill -TERM 1; kill -9 2; kill -STOP 1")
        assert await box.run("echo alive") == (0, "alive\n", "")


async def test_a_box_whose_first_process_is_gone_is_stopped_and_starts_again_with_its_files(tmp_path: Path) -> None:
    async with local_box(tmp_path, isolation="bubblewrap") as box:
        await box.sandbox.write_file(box.id, "f", b"kept\n")
        holder = json.loads((tmp_path / box.id / "holder.json").read_text())
        os.kill(holder["pid"], signal.SIGKILL)
        async with asyncio.timeout(10):
            while (await box.sandbox.get(box.id)).status is not BoxStatus.STOPPED:
                await asyncio.sleep(0.01)
        with pytest.raises(BoxStateError, match="resume"):
            await box.run("true")
        await box.sandbox.resume(box.id)
        assert await box.run("cat f") == (0, "kept\n", "")


async def test_an_isolated_box_stays_isolated_for_a_sandbox_that_asks_for_none(tmp_path: Path) -> None:
    async with local_box(tmp_path, isolation="bubblewrap") as box, LocalSandbox(tmp_path) as plain:
        assert (await LocalBox(plain, box.id).run("ls /root"))[0] != 0
        await plain.create("plain", BoxSpec(), {})
        with pytest.raises(SandboxError, match="without isolation"):
            await box.sandbox.spawn("plain", ProcessSpec(argv=("true",)))
        await plain.delete("plain")


async def test_a_shell_on_a_terminal_of_the_box_has_job_control(tmp_path: Path) -> None:
    async with local_box(tmp_path, isolation="bubblewrap") as box:
        spec = ProcessSpec(
            argv=("bash", "--norc", "-i"), env={"PS1": "> ", "TERM": "dumb"}, tty=TerminalSize(columns=99, rows=33)
        )
        process = await box.sandbox.spawn(box.id, spec)
        screen = Screen(process)
        assert "no job control" not in await screen.until("> ")
        await process.write(b"sh -c 'stty size; echo go; exec sleep 600'\n")
        await screen.until("33 99\r\n")
        await screen.until("go\r\n")
        await process.write(b"\x1a")
        await screen.until("Stopped")
        await process.write(b"kill %1; exit 5\n")
        await process.write(b"exit 5\n")
        await screen.rest()
        assert await process.wait() == 5


async def test_a_signal_reaches_the_process_in_the_box_and_shows_in_its_status(tmp_path: Path) -> None:
    async with local_box(tmp_path, isolation="bubblewrap") as box:
        process = await box.spawn("echo up; exec sleep 600")
        await Screen(process).until("up")
        await process.signal(signal.SIGTERM)
        assert await process.wait() == 143


async def test_limits_hold_in_the_box(tmp_path: Path) -> None:
    async with local_box(tmp_path, isolation="bubblewrap", limits=ProcessLimits(open_files=77)) as box:
        assert (await box.run("ulimit -n; ulimit -c"))[1].split() == ["77", "0"]


async def test_what_is_started_and_deleted_at_once_is_gone(tmp_path: Path) -> None:
    async with LocalSandbox(tmp_path, isolation="bubblewrap") as sandbox:
        await sandbox.create("box", BoxSpec(), {})
        starting = [
            asyncio.create_task(sandbox.spawn("box", ProcessSpec(argv=("sleep", "602.at-once")))) for _ in range(8)
        ]
        await asyncio.sleep(0.01)
        await sandbox.delete("box")
        await asyncio.wait(starting)
        for task in starting:
            error = task.exception()
            assert error is None or isinstance(error, SandboxError), error
        assert pids_of("602.at-once") == []
        assert list(tmp_path.iterdir()) == []


async def test_an_allowed_host_is_reached_and_goes_on_to_be_by_the_next_engine(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        await writer.drain()
        writer.close()

    fetch = (
        "python3 -c 'import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=20).read().decode())' "
        "http://allowed.example.org/"
    )
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        egress = Egress(allow=["allowed.example.org"], resolve={"allowed.example.org": f"127.0.0.1:{port}"})
        async with LocalSandbox(tmp_path, isolation="bubblewrap") as sandbox:
            await sandbox.create("box", BoxSpec(network=egress), {})
            box = LocalBox(sandbox, "box")
            assert (await box.run(fetch))[:2] == (0, "hello\n")
            assert (await box.run(fetch.replace("allowed", "other")))[0] != 0
            assert (await box.run("echo x > /run/boxflow/gate.sock; rm -f /run/boxflow/gate.sock"))[0] != 0
            assert (await box.run("ls /run/boxflow"))[1].split() == ["ca-bundle.pem", "gate.sock"]
        async with LocalSandbox(tmp_path, isolation="bubblewrap") as sandbox:
            try:
                assert (await LocalBox(sandbox, "box").run(fetch))[0] != 0
                await sandbox.attach("box")
                assert (await LocalBox(sandbox, "box").run(fetch))[:2] == (0, "hello\n")
                await sandbox.pause("box")
                await sandbox.resume("box")
                assert (await LocalBox(sandbox, "box").run(fetch))[:2] == (0, "hello\n")
            finally:
                await sandbox.delete("box")


async def test_the_url_of_a_port_is_of_this_engine_and_closed_with_it(tmp_path: Path) -> None:
    async with local_box(tmp_path, isolation="bubblewrap") as box:
        process = await box.spawn("exec python3 -u -m http.server --bind 127.0.0.1 8000 2>&1")
        await Screen(process).until("Serving")
        url = await box.sandbox.url(box.id, 8000)
        assert url != "http://127.0.0.1:8000"

        def get(from_url: str) -> int:
            with urllib.request.urlopen(from_url, timeout=10) as got:
                return int(got.status)

        assert await asyncio.to_thread(get, url) == 200
        async with LocalSandbox(tmp_path, isolation="bubblewrap") as other:
            theirs = await other.url(box.id, 8000)
            assert theirs != url and await asyncio.to_thread(get, theirs) == 200
        with pytest.raises(urllib.error.URLError):
            await asyncio.to_thread(get, theirs)
        await process.kill()


async def test_nothing_of_the_engine_s_is_left_open(tmp_path: Path) -> None:
    async with LocalSandbox(tmp_path, isolation="bubblewrap") as sandbox:
        await sandbox.create("warm", BoxSpec(network=Egress(allow=["example.org"])), {})
        await sandbox.url("warm", 8000)
        await LocalBox(sandbox, "warm").run("true", tty=TerminalSize())
        await sandbox.delete("warm")
        await asyncio.sleep(0.3)
        before, namespace = sorted(os.listdir("/proc/self/fd")), namespace_of(os.getpid())
        for _ in range(2):
            await sandbox.create("box", BoxSpec(network=Egress(allow=["example.org"])), {})
            await sandbox.url("box", 8000)
            await LocalBox(sandbox, "box").run("true", tty=TerminalSize())
            await LocalBox(sandbox, "box").run("true")
            await sandbox.delete("box")
        await asyncio.sleep(0.3)
        assert sorted(os.listdir("/proc/self/fd")) == before
        assert namespace_of(os.getpid()) == namespace


async def test_only_the_box_s_own_user_can_be_asked_for(tmp_path: Path) -> None:
    async with local_box(tmp_path, isolation="bubblewrap") as box:
        name = (await box.run("id -un"))[1].strip()
        assert (await box.run("echo $USER", user=name))[1].strip() == name
        with pytest.raises(NotSupportedError, match="root"):
            await box.run("true", user="root")


async def test_where_bubblewrap_is_missing_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def which(name: str, **_: object) -> str | None:
        return None if name == "bwrap" else f"/usr/bin/{name}"

    monkeypatch.setattr(shutil, "which", which)
    with pytest.raises(SandboxUnavailableError, match="install the packages bubblewrap"):
        async with LocalSandbox(tmp_path, isolation="bubblewrap"):
            pass


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
async def test_it_works_for_an_unprivileged_user_as_well(tmp_path: Path) -> None:
    home = Path("/tmp") / f"boxflow-unprivileged-{os.getpid()}"
    home.mkdir(mode=0o777)
    home.chmod(0o777)
    program = """
import asyncio, ctypes, encodings.idna, os, sys
import anyio.to_thread
from boxflow.ports import BoxSpec, ProcessSpec
from boxflow_backends.local_sandbox import LocalSandbox
# Everything is imported: a Python below /root cannot be read from here on.
asyncio.run(anyio.to_thread.run_sync(int))
os.setgroups([]); os.setgid(65534); os.setuid(65534)
# A process that has changed its user hides its descriptors, unless it executes a program or does this (prctl(2)).
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
sys.executable = "/usr/bin/python3"
async def main():
    async with LocalSandbox(sys.argv[1], isolation="bubblewrap") as sandbox:
        await sandbox.create("box", BoxSpec(), {})
        process = await sandbox.spawn("box", ProcessSpec(argv=("sh", "-c", "id -u; ls /root; echo x > f"), exec_id="e"))
        print(b"".join([data async for name, data in process.read() if name == "stdout"]), await process.wait())
        await sandbox.spawn("box", ProcessSpec(argv=("sh", "-c", "env -i setsid sleep 603.nobody & exec sleep 600")))
        print(await sandbox.url("box", 8000) != "http://127.0.0.1:8000")
        await sandbox.pause("box")
        await sandbox.delete("box")
asyncio.run(main())
"""
    try:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, str(home / "root")),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=-1,
            stderr=-1,
        )
        out, err = await child.communicate()
        assert (out.decode(), child.returncode) == ("b'65534\\n' 0\nTrue\n", 0), err.decode()
        assert pids_of("603.nobody") == []
    finally:
        shutil.rmtree(home)
