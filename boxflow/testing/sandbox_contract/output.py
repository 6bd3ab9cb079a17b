"""What does a sandbox promise about the output of a process: every byte of it, and never too much at once?"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from boxflow.errors import CommandTimeoutError
from boxflow.testing.sandbox_contract.support import HANG_S, Contract, flat_memory

_MB = 1_000_000


class OutputPromises(Contract):
    """Output arrives as it was written, from each stream by itself, in bounded memory."""

    async def test_every_byte_arrives_as_it_was_written(self, tmp_path: Path) -> None:
        data = bytes(range(256)) * 400
        async with self.subject(tmp_path) as subject:
            await subject.sandbox.write_file(subject.id, "f", data)
            done = await subject.run("cat f")
            assert (done.stdout, done.stderr) == (data, b"")
            done = await subject.run("cat f >&2")
            assert (done.stdout, done.stderr) == (b"", data)

    async def test_text_arrives_without_a_character_more_or_less(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            for text in ("", "\n", "no newline", "grüße 日本 🎉", "a\r\nb\rc", "tail\n\n\n", "\x1b[31m\0"):
                await box.files.write("f", text)
                assert (await box.exec.command("cat f")).stdout == text

    async def test_characters_of_many_bytes_are_not_torn(self, tmp_path: Path) -> None:
        text = "日本語 🎉 " * 50_000
        async with self.box(tmp_path) as box:
            result = await box.exec.command(["cat"], stdin=text, max_output_bytes=10 * _MB)
            assert result.stdout == text

    async def test_a_line_may_have_any_length(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            done = await subject.run("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo short")
            assert done.stdout == b"x" * 3 * _MB + b"\nshort\n"

    async def test_both_streams_flow_at_once(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            # Whoever read one to its end before the other would block the process.
            done = await subject.run("yes a | head -c 2000000 & yes b | head -c 2000000 >&2; wait")
            assert (done.stdout, done.stderr) == (b"a\n" * _MB, b"b\n" * _MB)

    async def test_too_much_output_keeps_its_head_and_its_tail(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            result = await box.exec.command("echo head; yes | head -c 3000000; echo tail", max_output_bytes=10_000)
            assert result.truncated
            assert result.stdout.startswith("head\n") and result.stdout.endswith("tail\n")
            assert "bytes left out" in result.stdout
            assert len(result.stdout) < 10_100

    async def test_each_stream_has_a_bound_of_its_own(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            result = await box.exec.command("yes | head -c 1000000; echo why >&2; exit 1", max_output_bytes=1000)
            assert result.truncated
            assert result.stderr == "why\n"

    async def test_hundreds_of_megabytes_take_no_memory(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            with flat_memory():
                result = await box.exec.command(
                    "echo head; head -c 300000000 /dev/zero | tr '\\0' x; echo; echo tail", max_output_bytes=100_000
                )
            assert result.ok and result.truncated
            assert result.stdout.startswith("head\nx") and result.stdout.endswith("x\ntail\n")

    async def test_an_endless_output_is_ended_by_the_timeout_and_keeps_its_head_and_its_tail(
        self, tmp_path: Path
    ) -> None:
        async with self.box(tmp_path) as box:
            with flat_memory(), pytest.raises(CommandTimeoutError) as caught:
                await box.exec.command("echo first; yes; echo never", timeout=3, max_output_bytes=100_000)
            assert caught.value.stdout.startswith("first\ny\n")
            assert "bytes left out" in caught.value.stdout
            assert caught.value.stdout.rstrip("\n").endswith("y")
            assert (await box.exec.command("echo fine")).stdout == "fine\n"

    async def test_a_process_waits_while_nobody_reads_and_loses_nothing(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            with flat_memory():
                process = await subject.spawn("echo up > up; head -c 200000000 /dev/zero; echo all > all")
                await subject.appears("up")
                # What it has not been relieved of it cannot have written, however often we look.
                for _ in range(10):
                    await subject.run("[ ! -e all ]")
                assert (await subject.run("[ ! -e all ]")).status == 0
                size = 0
                async with asyncio.timeout(HANG_S):
                    async for _, data in process.read():
                        size += len(data)
                    assert await process.wait() == 0
            assert size == 200 * _MB
            assert await subject.out("cat all") == "all\n"
