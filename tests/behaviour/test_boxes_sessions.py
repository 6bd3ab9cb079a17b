"""Output is read as it comes, a session is talked to, and neither is left running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from behaviour.support import is_alive

from boxflow import Box, Boxes, NotDurableError, Session, TerminalSize
from boxflow.errors import CommandFailedError, CommandTimeoutError, SandboxError
from boxflow_backends.local_sandbox import LocalSandbox


@asynccontextmanager
async def a_box(directory: Path) -> AsyncIterator[Box]:
    async with Boxes(LocalSandbox(directory)) as boxes, boxes.create("talk") as box:
        yield box


async def read_until(session: Session, wanted: str) -> str:
    text = ""
    async for chunk in session:
        text += chunk.text
        if wanted in text:
            break
    return text


async def gone(box: Box, pid_file: str = "pid") -> bool:
    pid = int(await box.files.read(pid_file))
    return not is_alive(pid)


async def test_chunks_arrive_while_the_command_runs(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        seen: list[tuple[str, bytes]] = []
        stream = box.exec.stream("echo a; until [ -e go ]; do sleep 0.01; done; echo b >&2; exit 3")
        async for chunk in stream:
            seen.append((chunk.stream, chunk.data))
            await box.files.write("go", "")
        assert seen == [("stdout", b"a\n"), ("stderr", b"b\n")]
        assert stream.exit_code == 3


async def test_leaving_a_stream_kills_its_command(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        async with box.exec.stream("echo $$ > pid; echo up; sleep 600") as stream:
            async for _ in stream:
                break
        assert await gone(box)


async def test_a_stream_that_fails_or_takes_too_long_says_so(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        with pytest.raises(CommandFailedError, match="exited with 4: why"):
            async for _ in box.exec.stream("echo why >&2; exit 4", check=True):
                pass
        text = ""
        with pytest.raises(CommandTimeoutError, match=r"killed after 0\.3 s"):
            async for chunk in box.exec.stream("echo $$ > pid; echo up; sleep 600", timeout=0.3):
                text += chunk.text
        assert text == "up\n"
        assert await gone(box)


async def test_a_stream_takes_input(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        data = [chunk.data async for chunk in box.exec.stream(["cat"], stdin="x" * 200_000)]
        assert b"".join(data) == b"x" * 200_000


async def test_an_endless_stream_holds_little_memory_while_nobody_reads(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box, box.exec.stream("yes") as stream:
        async for _ in stream:
            await asyncio.sleep(0.2)
            break


async def test_a_session_answers_and_ends(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box, box.exec.session(["cat"]) as session:
        await session.stdin.write("hello\n")
        assert await read_until(session, "\n") == "hello\n"
        await session.stdin.close()
        assert await session.read() is None
        assert await session.wait() == 0
        with pytest.raises(SandboxError):
            await session.stdin.write("more")


async def test_a_terminal_has_a_size_that_can_be_changed(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box, box.exec.session("sh", tty=TerminalSize(columns=100, rows=30)) as session:
        await session.stdin.write("stty size; tty | head -c 5; echo; echo do''ne\n")
        text = await read_until(session, "done")
        assert "30 100" in text and "/dev/" in text
        await session.resize(columns=120, rows=40)
        await session.stdin.write("stty size; echo ag''ain\n")
        assert "40 120" in await read_until(session, "again")
        await session.stdin.write("exit 5\n")
        async for _ in session:
            pass
        assert await session.wait() == 5


async def test_control_c_interrupts_what_runs_on_the_terminal(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box, box.exec.session(["sh", "-c", "echo up; exec sleep 600"], tty=True) as session:
        await read_until(session, "up")
        await session.stdin.write("\x03")
        async for _ in session:
            pass
        assert await session.wait() == 130


async def test_a_signal_reaches_the_session(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box, box.exec.session(["sleep", "600"]) as session:
        await session.signal("TERM")
        assert await session.wait() == 143
        await session.signal("TERM")


async def test_leaving_a_session_kills_all_that_it_started(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        async with box.exec.session("(setsid sh -c 'echo $$ > pid; echo up; sleep 600' &); cat") as session:
            await read_until(session, "up")
        assert await gone(box)


async def test_waiting_drops_output_that_nobody_reads(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        session = await box.exec.session("yes | head -c 5000000; exit 3")
        assert await session.wait() == 3


async def test_program_texts_run_in_their_language(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        code = "import sys, pathlib\nprint(sys.argv[1:], pathlib.Path(__file__).exists(), sys.stdin.read())"
        result = await box.exec.code(code, args=["a b", "*"], check=True)
        assert result.stdout == "['a b', '*'] True \n"
        assert (await box.exec.code("echo $((6 * 7)); exit 3", "bash")).exit_code == 3
        assert (await box.exec.code("echo x", "sh")).stdout == "x\n"
        assert (await box.exec.command("ls ${TMPDIR:-/tmp} | grep boxflow-code")).stdout == ""
        failed = await box.exec.code("raise ValueError('no')")
        assert failed.exit_code == 1 and "ValueError: no" in failed.stderr
        with pytest.raises(ValueError, match="'cobol' cannot be run; known are bash"):
            await box.exec.code("", "cobol")


async def test_a_language_that_the_box_lacks_says_what_to_do(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        with pytest.raises(SandboxError, match="has nothing to run php with; make it from an image that has it"):
            await box.exec.code("", "php", env={"PATH": "/nowhere:/bin"}, timeout=30)
        assert (await box.exec.code("exit 119", "sh")).exit_code == 119


async def test_in_a_workflow_body_streams_and_sessions_say_what_to_do_instead(tmp_path: Path) -> None:
    class Owner:
        async def box_call(self, *args: object, **options: object) -> object:
            raise AssertionError("nothing is called")

    async with a_box(tmp_path) as box:
        asyncio.get_running_loop().owner = Owner()  # type: ignore[attr-defined] # as a private loop has it
        try:
            for use in (lambda: box.exec.stream("true"), lambda: box.exec.session("true")):
                with pytest.raises(NotDurableError, match="in a step"):
                    use()
            with pytest.raises(NotDurableError, match="ask for it in a step"):
                await box.url(80)
        finally:
            del asyncio.get_running_loop().owner  # type: ignore[attr-defined] # as above
