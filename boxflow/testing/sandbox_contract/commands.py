"""What does a sandbox promise about running a program: its arguments, its input, how it ended, and what it left?"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from boxflow.errors import CommandFailedError, SandboxError
from boxflow.testing.sandbox_contract.support import FOREVER, HANG_S, Contract, Reader, Subject, flat_memory, made, ran


class CommandPromises(Contract):
    """Programs are started as they are asked for, and how they ended is told exactly."""

    async def test_a_command_returns_its_exit_code_and_both_streams(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            result = await box.exec.command("echo out; echo err >&2; exit 3")
            assert (result.exit_code, result.stdout, result.stderr) == (3, "out\n", "err\n")
            assert not result.ok and not result.truncated and not result.timed_out
            assert result.duration_s > 0

    async def test_a_sequence_is_started_without_a_shell(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            result = await box.exec.command(["printf", "%s|", "a b", "$HOME", "*", "ü'\"\\", "", "two\nlines", "-n"])
            assert result.stdout == "a b|$HOME|*|ü'\"\\||two\nlines|-n|"

    async def test_long_arguments_arrive_whole(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            # 128 KiB is what Linux takes of one argument (execve(2)).
            lengths = await subject.out(
                ["sh", "-c", 'echo ${#1} $# "${500}"', "sh", "x" * 100_000, *map(str, range(600))]
            )
            assert lengths == "100000 601 498\n"

    async def test_a_program_that_is_not_there_is_an_error(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            with pytest.raises(SandboxError, match="no-such-program"):
                await box.exec.command(["no-such-program", "x"])
            assert (await box.exec.command("no-such-program")).exit_code == 127

    async def test_a_program_that_may_not_be_run_is_an_error(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            await subject.sandbox.write_file(subject.id, "data", b"text\n", mode=0o644)
            with pytest.raises(SandboxError, match="data"):
                await subject.run(["./data"])

    async def test_a_failing_command_raises_where_that_was_asked(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            with pytest.raises(CommandFailedError, match=r"'exit 7'|exited with 7") as caught:
                await box.exec.command("echo why >&2; exit 7", check=True)
            assert caught.value.exit_code == 7
            assert "why" in str(caught.value)
            assert (await box.exec.command("true", check=True)).ok

    async def test_every_exit_status_is_told_as_it_is(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            # Among them those that shells, kill and container engines give a meaning of their own.
            statuses = [0, 1, 2, 42, 124, 125, 126, 127, 128, 129, 130, 137, 143, 254, 255]
            found = await asyncio.gather(*(subject.run(f"exit {status}") for status in statuses))
            assert [done.status for done in found] == statuses
            assert {done.stdout + done.stderr for done in found} == {b""}

    async def test_a_signal_shows_in_the_exit_code_as_in_a_shell(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            numbers = (1, 2, 6, 9, 11, 15)
            found = await asyncio.gather(*(subject.run(f"kill -{number} $$") for number in numbers))
            assert [done.status for done in found] == [128 + number for number in numbers]

    async def test_how_it_ended_can_be_asked_again(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            process = await subject.spawn("exit 5")
            async with asyncio.timeout(HANG_S):
                assert set(await asyncio.gather(process.wait(), process.wait())) == {5}
                assert (await ran(process)).status == 5

    # --- input -------------------------------------------------------------------------------------------------

    async def test_input_reaches_the_command_whole(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            text = "zwölf Boxkämpfer\n" * 20_000
            result = await box.exec.command(["cat"], stdin=text, max_output_bytes=10_000_000)
            assert result.stdout == text
            assert (await box.exec.command("wc -c", stdin=bytes(range(256)))).stdout.strip() == "256"

    async def test_without_input_a_command_reads_an_empty_one(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            assert (await box.exec.command("cat; echo done", timeout=30)).stdout == "done\n"

    async def test_input_that_nobody_reads_is_no_failure(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            assert (await box.exec.command("exit 4", stdin=b"x" * 1_000_000)).exit_code == 4

    async def test_a_process_can_be_talked_with_until_its_input_is_closed(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            process = await subject.spawn('while read -r line; do echo "got $line"; done; echo end', stdin=True)
            reader = Reader(process)
            for line in ("one", "zwei ü", "three"):
                await process.write(f"{line}\n".encode())
                assert await reader.until("\n") == f"got {line}\n"
            await process.close_stdin()
            await process.close_stdin()
            assert await reader.rest() == "end\n"
            assert await process.wait() == 0

    async def test_what_is_written_after_its_input_was_closed_still_arrives(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            # Half closed: the input has ended long before the output begins.
            process = await subject.spawn("cat > taken; echo begin; cat taken taken", stdin=True)
            await process.write(b"x" * 100_000)
            await process.close_stdin()
            done = await ran(process)
            assert (done.status, done.stdout) == (0, b"begin\n" + b"x" * 200_000)

    async def test_input_larger_than_any_buffer_takes_no_memory(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            process = await subject.spawn("wc -c", stdin=True)
            block = b"x" * 1_000_000
            with flat_memory():
                for _ in range(100):
                    await process.write(block)
                await process.close_stdin()
                assert (await ran(process)).stdout.strip() == b"100000000"

    async def test_writing_to_a_process_that_has_ended_is_an_error_and_not_a_wait(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            process = await subject.spawn("exit 0", stdin=True)
            async with asyncio.timeout(HANG_S):
                assert await process.wait() == 0
                with pytest.raises(SandboxError):
                    while True:
                        await process.write(b"x" * 100_000)
                await process.close_stdin()

    # --- beside each other, and left behind --------------------------------------------------------------------

    async def test_commands_run_beside_each_other(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            # Each waits for the other's file: one after the other neither would end.
            script = "touch {0}; until [ -e {1} ]; do sleep 0.01; done; echo {0}"
            first, second = await asyncio.gather(
                box.exec.command(script.format("a", "b"), timeout=30),
                box.exec.command(script.format("b", "a"), timeout=30),
            )
            assert (first.stdout, second.stdout) == ("a\n", "b\n")

    async def test_commands_beside_each_other_do_not_mix_their_output(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            letters = "abcdefgh"
            script = "yes $0 | head -c 200000; yes $0 | head -c 200000 >&2"
            found = await asyncio.gather(*(subject.run(["sh", "-c", script, letter]) for letter in letters))
            for letter, done in zip(letters, found, strict=True):
                expected = f"{letter}\n".encode() * 100_000
                assert (done.stdout, done.stderr) == (expected, expected)

    async def test_a_command_ends_when_its_process_does_whatever_it_left_running(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            result = await box.exec.command(f"sleep {FOREVER} & echo started", timeout=30)
            assert (result.exit_code, result.stdout) == (0, "started\n")

    async def test_what_runs_in_the_background_goes_on_after_its_command(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            await subject.run("(until [ -e go ]; do sleep 0.01; done; echo x > went) >/dev/null 2>&1 &")
            await subject.sandbox.write_file(subject.id, "go", b"")
            await subject.appears("went")

    async def test_a_process_goes_on_when_its_handle_and_its_sandbox_are_gone(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as first, made(first) as subject:
            async with self.sandbox(tmp_path) as other:
                lost = Subject(other, subject.id)
                process = await lost.spawn(
                    "exec >log 2>&1; echo up; until [ -e go ]; do sleep 0.01; done; echo x > went", exec_id="lost"
                )
                await lost.appears("log")
            del process
            await subject.sandbox.write_file(subject.id, "go", b"")
            await subject.appears("went")

    # --- git ---------------------------------------------------------------------------------------------------

    async def test_a_clone_can_be_changed_looked_at_and_committed(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            setup = "git init -q -b main $HOME/origin && cd $HOME/origin && echo one > f && git add f && "
            await box.exec.command(setup + "git -c user.name=a -c user.email=a@b commit -qm first", check=True)
            home = (await box.exec.command("echo $HOME")).stdout.strip()
            await box.git.clone(f"{home}/origin")
            assert await box.files.read("f") == "one\n"
            assert await box.git.diff() == ""
            await box.files.write("f", "two\n")
            await box.files.write("new", "new\n")
            diff = await box.git.diff()
            assert "-one\n+two\n" in diff and "+new\n" in diff
            status = await box.git.status()
            assert (status.branch, {change.path: change.code for change in status.changes}) == (
                "main",
                {"f": " M", "new": "??"},
            )
            commit = await box.git.commit("second", author="A B <a@b.example>")
            logged = await box.git.exec("log", "--format=%H %an %ae %s", "-1")
            assert logged.stdout == f"{commit} A B a@b.example second\n"
            assert (await box.git.status()).clean
