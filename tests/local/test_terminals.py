"""A process of a local box has a terminal as a person at a keyboard has."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from boxflow.errors import SandboxError
from boxflow.ports import ProcessSpec, TerminalSize

from .support import Screen, local_box


async def test_a_shell_on_a_terminal_sees_its_size_and_its_resizing(tmp_path: Path) -> None:
    async with local_box(tmp_path) as box:
        process = await box.sandbox.spawn(
            box.id, ProcessSpec(argv=("sh", "-i"), env={"PS1": "> "}, tty=TerminalSize(columns=101, rows=37))
        )
        screen = Screen(process)
        await process.write(b"stty size; tty\n")
        assert "37 101\r\n/dev/pts/" in await screen.until("/dev/pts/")
        await process.resize(TerminalSize(columns=55, rows=12))
        await process.write(b"stty size\n")
        await screen.until("12 55\r\n")
        await process.write(b"exit 4\n")
        await screen.rest()
        assert await process.wait() == 4


async def test_an_interrupt_ends_what_runs_in_the_foreground_and_not_the_shell(tmp_path: Path) -> None:
    async with local_box(tmp_path) as box:
        process = await box.sandbox.spawn(
            box.id, ProcessSpec(argv=("bash", "--norc", "-i"), env={"PS1": "> ", "TERM": "dumb"}, tty=TerminalSize())
        )
        screen = Screen(process)
        await screen.until("> ")
        await process.write(b"sh -c 'echo started; exec sleep 600'\n")
        await screen.until("started\r\n")
        await process.write(b"\x03")
        await process.write(b"echo status $?\n")
        await screen.until("status 130")
        await screen.until("> ")
        await process.close_stdin()
        await screen.rest()
        assert await process.wait() == 0


async def test_a_program_that_is_interrupted_at_its_terminal_ends_with_130(tmp_path: Path) -> None:
    async with local_box(tmp_path) as box:
        process = await box.spawn("echo up; exec sleep 600", tty=TerminalSize())
        await Screen(process).until("up")
        await process.write(b"\x03")
        assert await process.wait() == 130


async def test_a_terminal_whose_process_has_ended_takes_nothing_more(tmp_path: Path) -> None:
    async with local_box(tmp_path) as box:
        process = await box.spawn("exit 0", tty=TerminalSize())
        async with asyncio.timeout(10):
            assert await process.wait() == 0
            with pytest.raises(SandboxError, match="standard input"):
                await process.write(b"x")
            await process.close_stdin()
            await process.resize(TerminalSize())


async def test_a_program_that_is_not_there_is_an_error_on_a_terminal_too(tmp_path: Path) -> None:
    async with local_box(tmp_path) as box:
        with pytest.raises(SandboxError, match="no-such-program"):
            await box.sandbox.spawn(box.id, ProcessSpec(argv=("no-such-program",), tty=TerminalSize()))


async def test_what_a_terminal_takes_goes_to_its_reader_in_any_amount(tmp_path: Path) -> None:
    async with local_box(tmp_path) as box:
        process = await box.spawn("stty raw -echo; echo up; head -c 300000 | wc -c", tty=TerminalSize())
        screen = Screen(process)
        await screen.until("up")
        await process.write(b"x" * 300_000)
        assert (await screen.rest()).split() == ["300000"]


async def test_a_hangup_reaches_what_a_terminal_s_process_left_in_the_foreground(tmp_path: Path) -> None:
    async with local_box(tmp_path) as box:
        left = "(trap 'echo hung > up' HUP; echo x > set; sleep 600 & wait) &"
        process = await box.spawn(f"{left} until [ -s set ]; do sleep 0.01; done; echo ok", tty=TerminalSize())
        await Screen(process).rest()
        assert await process.wait() == 0
        assert (await box.run("until [ -s up ]; do sleep 0.01; done; cat up"))[1] == "hung\n"
        await process.signal(signal.SIGTERM)
