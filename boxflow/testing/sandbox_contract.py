"""What every sandbox must do, as tests: subclass `SandboxContract` and give it your sandbox.

    class TestMySandbox(SandboxContract):
        def make_sandbox(self, directory):
            return MySandbox(directory)

The tests are coroutine functions; run them with any pytest plugin that runs those. They need a POSIX box with `sh`,
`setsid` and `git`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from boxflow.boxes import Box, Boxes
from boxflow.errors import (
    BoxFileNotFoundError,
    BoxNotFoundError,
    BoxPathError,
    CommandFailedError,
    CommandTimeoutError,
    SandboxError,
)
from boxflow.ports import BoxSpec, BoxStatus, Sandbox

# Long enough that a process which is still there at the end of a test was left behind, and did not end by itself.
_FOREVER = "600"

# Each prints one line when it is up, and would then live on: what a killer has to find.
_TREES = {
    "child": f"sleep {_FOREVER} & echo up; wait",
    "grandchild": f"sh -c 'sleep {_FOREVER} & echo up; wait' & wait",
    "own session": f"setsid sh -c 'echo up; sleep {_FOREVER}' & sleep {_FOREVER}",
    "daemon": f"(setsid sh -c 'echo up; sleep {_FOREVER}' &) ; sleep {_FOREVER}",
    "deaf": f"trap '' TERM INT HUP; echo up; sleep {_FOREVER}",
}


def _id(word: str = "box") -> str:
    return f"{word}-{secrets.token_hex(6)}"


class SandboxContract:
    """The promises of `Sandbox`, one a test."""

    def make_sandbox(self, directory: Path) -> Sandbox:
        """A sandbox, not yet entered, that keeps what it keeps in *directory*; a second one finds the same boxes."""
        raise NotImplementedError(f"{type(self).__name__} must say how its sandbox is made: override make_sandbox")

    @asynccontextmanager
    async def sandbox(self, directory: Path) -> AsyncGenerator[Sandbox, None]:
        """An entered sandbox."""
        async with self.make_sandbox(directory) as sandbox:
            yield sandbox

    @asynccontextmanager
    async def _box(self, directory: Path) -> AsyncGenerator[Box, None]:
        async with Boxes(self.make_sandbox(directory)) as boxes, boxes.create("contract") as box:
            yield box

    # --- boxes -------------------------------------------------------------------------------------------------

    async def test_a_created_box_is_found_by_its_id(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox:
            box_id = _id()
            made = await sandbox.create(box_id, BoxSpec(), {"owner": "a"})
            try:
                found = await sandbox.get(box_id)
                assert (found.box_id, found.status, found.labels) == (box_id, BoxStatus.RUNNING, {"owner": "a"})
                assert found.created_at == made.created_at
            finally:
                await sandbox.delete(box_id)

    async def test_creating_twice_with_one_id_gives_the_same_box(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox:
            box_id = _id()
            await sandbox.create(box_id, BoxSpec(), {"try": "1"})
            try:
                await sandbox.write_file(box_id, "kept", b"work")
                again = await sandbox.create(box_id, BoxSpec(), {"try": "2"})
                assert again.labels == {"try": "1"}
                assert await sandbox.read_file(box_id, "kept") == b"work"
            finally:
                await sandbox.delete(box_id)

    async def test_of_many_creators_of_one_id_all_get_the_same_box(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox:
            box_id = _id()
            try:
                made = await asyncio.gather(*(sandbox.create(box_id, BoxSpec(), {"n": str(n)}) for n in range(8)))
                assert len({info.labels["n"] for info in made}) == 1
                assert len(await sandbox.list({})) == 1
            finally:
                await sandbox.delete(box_id)

    async def test_list_finds_the_boxes_that_carry_all_labels(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox:
            tag = _id("tag")
            ids = {"ab": {"a": "1", "b": "1"}, "a": {"a": "1"}, "b": {"b": "1"}}
            made = {key: _id(key) for key in ids}
            try:
                for key, labels in ids.items():
                    await sandbox.create(made[key], BoxSpec(), {**labels, "tag": tag})
                for wanted, keys in (
                    ({}, "ab a b"),
                    ({"a": "1"}, "ab a"),
                    ({"a": "1", "b": "1"}, "ab"),
                    ({"a": "2"}, ""),
                ):
                    found = await sandbox.list({**wanted, "tag": tag})
                    assert {info.box_id for info in found} == {made[key] for key in keys.split()}
            finally:
                for box_id in made.values():
                    await sandbox.delete(box_id)

    async def test_a_deleted_box_is_gone(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox:
            box_id = _id()
            await sandbox.create(box_id, BoxSpec(), {"tag": box_id})
            await sandbox.delete(box_id)
            with pytest.raises(BoxNotFoundError, match=box_id):
                await sandbox.get(box_id)
            assert await sandbox.list({"tag": box_id}) in ([], ())

    async def test_deleting_twice_or_what_never_was_is_no_error(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox:
            box_id = _id()
            await sandbox.create(box_id, BoxSpec(), {})
            await asyncio.gather(sandbox.delete(box_id), sandbox.delete(box_id))
            await sandbox.delete(box_id)
            await sandbox.delete(_id("never"))

    async def test_a_box_of_a_deleted_one_s_id_is_new(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox:
            box_id = _id()
            await sandbox.create(box_id, BoxSpec(), {})
            await sandbox.write_file(box_id, "old", b"")
            await sandbox.delete(box_id)
            await sandbox.create(box_id, BoxSpec(), {})
            try:
                assert not await sandbox.list_files(box_id, ".")
            finally:
                await sandbox.delete(box_id)

    async def test_boxes_outlive_the_sandbox_that_made_them(self, tmp_path: Path) -> None:
        box_id = _id()
        async with self.sandbox(tmp_path) as first:
            await first.create(box_id, BoxSpec(env={"KEPT": "yes"}), {"l": "1"})
            await first.write_file(box_id, "f", b"data")
        async with self.sandbox(tmp_path) as second:
            try:
                box = await Boxes(second).get(box_id)
                assert box.labels == {"l": "1"}
                assert await box.files.read("f") == "data"
                assert (await box.exec.command("echo $KEPT")).stdout == "yes\n"
            finally:
                await second.delete(box_id)

    async def test_calls_to_an_unknown_box_say_so(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox:
            box = Box(sandbox, box_id="unknown", name="unknown", spec=BoxSpec())
            for asked in (
                sandbox.get("unknown"),
                box.exec.command("true"),
                box.files.read("f"),
                box.files.write("f", ""),
                box.files.list(),
                box.git.status(),
            ):
                with pytest.raises(BoxNotFoundError, match="unknown"):
                    await asked
            assert await box.status() == BoxStatus.DELETED

    async def test_boxes_do_not_see_each_other_s_files(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as one, self._box(tmp_path) as other:
            await one.files.write("f", "one")
            with pytest.raises(BoxFileNotFoundError):
                await other.files.read("f")

    # --- commands ----------------------------------------------------------------------------------------------

    async def test_a_command_returns_its_exit_code_and_both_streams(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            result = await box.exec.command("echo out; echo err >&2; exit 3")
            assert (result.exit_code, result.stdout, result.stderr) == (3, "out\n", "err\n")
            assert not result.ok and not result.truncated and not result.timed_out
            assert result.duration_s > 0

    async def test_a_sequence_is_started_without_a_shell(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            result = await box.exec.command(["printf", "%s|", "a b", "$HOME", "*", "ü'\"\\"])
            assert result.stdout == "a b|$HOME|*|ü'\"\\|"

    async def test_a_program_that_is_not_there_is_an_error(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            with pytest.raises(SandboxError, match="no-such-program"):
                await box.exec.command(["no-such-program", "x"])
            assert (await box.exec.command("no-such-program")).exit_code == 127

    async def test_a_signal_shows_in_the_exit_code_as_in_a_shell(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            assert (await box.exec.command("kill -9 $$")).exit_code == 137

    async def test_input_reaches_the_command_whole(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            text = "zwölf Boxkämpfer\n" * 20_000
            result = await box.exec.command(["cat"], stdin=text, max_output_bytes=10_000_000)
            assert result.stdout == text
            assert (await box.exec.command("wc -c", stdin=bytes(range(256)))).stdout.strip() == "256"

    async def test_without_input_a_command_reads_an_empty_one(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            assert (await box.exec.command("cat; echo done")).stdout == "done\n"

    async def test_input_that_nobody_reads_is_no_failure(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            assert (await box.exec.command("exit 4", stdin=b"x" * 1_000_000)).exit_code == 4

    async def test_the_working_directory_is_the_same_for_commands_and_files(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            await box.files.write("here", "")
            await box.files.write("sub/there", "")
            assert (await box.exec.command("ls")).stdout == "here\nsub\n"
            assert (await box.exec.command("ls", cwd="sub")).stdout == "there\n"
            absolute = (await box.exec.command("pwd", cwd="sub")).stdout.strip()
            assert (await box.exec.command("ls", cwd=absolute)).stdout == "there\n"
            assert await box.files.read(f"{absolute}/there") == ""

    async def test_a_directory_that_is_not_there_is_an_error(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            with pytest.raises(SandboxError, match="missing"):
                await box.exec.command("true", cwd="missing")

    async def test_variables_of_the_call_win_over_those_of_the_box(self, tmp_path: Path) -> None:
        variables = {"A": "box", "B": "box"}
        async with self.sandbox(tmp_path) as sandbox, Boxes(sandbox).create(env=variables) as box:
            result = await box.exec.command("echo $A $B", env={"B": "call"})
            assert result.stdout == "box call\n"

    async def test_the_environment_of_the_caller_does_not_enter_the_box(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CONTRACT_SECRET", "hunter2")
        async with self._box(tmp_path) as box:
            assert "hunter2" not in (await box.exec.command("env")).stdout

    async def test_home_and_temporary_directory_belong_to_the_box(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as one, self._box(tmp_path) as other:
            assert (await one.exec.command("echo x > $HOME/f && echo x > ${TMPDIR:-/tmp}/f")).ok
            assert not (await other.exec.command("cat $HOME/f")).ok
            assert not (await other.exec.command("cat ${TMPDIR:-/tmp}/f")).ok

    async def test_too_much_output_keeps_its_head_and_its_tail(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            result = await box.exec.command("echo head; yes | head -c 3000000; echo tail", max_output_bytes=10_000)
            assert result.truncated
            assert result.stdout.startswith("head\n") and result.stdout.endswith("tail\n")
            assert "bytes left out" in result.stdout
            assert len(result.stdout) < 10_100

    async def test_each_stream_has_a_bound_of_its_own(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            result = await box.exec.command("yes | head -c 1000000; echo why >&2; exit 1", max_output_bytes=1000)
            assert result.truncated
            assert result.stderr == "why\n"

    async def test_a_failing_command_raises_where_that_was_asked(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            with pytest.raises(CommandFailedError, match=r"'exit 7'|exited with 7") as caught:
                await box.exec.command("echo why >&2; exit 7", check=True)
            assert caught.value.exit_code == 7
            assert "why" in str(caught.value)
            assert (await box.exec.command("true", check=True)).ok

    async def test_commands_run_beside_each_other(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            # Each waits for the other's file: one after the other neither would end.
            script = "touch {0}; until [ -e {1} ]; do sleep 0.01; done; echo {0}"
            first, second = await asyncio.gather(
                box.exec.command(script.format("a", "b"), timeout=30),
                box.exec.command(script.format("b", "a"), timeout=30),
            )
            assert (first.stdout, second.stdout) == ("a\n", "b\n")

    async def test_a_command_ends_when_its_process_does_whatever_it_left_running(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            result = await box.exec.command(f"sleep {_FOREVER} & echo started", timeout=30)
            assert (result.exit_code, result.stdout) == (0, "started\n")

    async def test_what_runs_in_the_background_goes_on_after_its_command(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            await box.exec.command("(until [ -e go ]; do sleep 0.01; done; echo x > went) >/dev/null 2>&1 &")
            await box.files.write("go", "")
            assert (await box.exec.command("until [ -e went ]; do sleep 0.01; done", timeout=30)).ok

    # --- ending processes --------------------------------------------------------------------------------------

    @pytest.mark.parametrize("tree", sorted(_TREES))
    async def test_a_timeout_ends_the_whole_tree_and_keeps_what_was_written(self, tmp_path: Path, tree: str) -> None:
        async with self._box(tmp_path) as box:
            with pytest.raises(CommandTimeoutError) as caught:
                await box.exec.command(_TREES[tree], env={"TREE": box.id}, timeout=1)
            assert caught.value.stdout == "up\n"
            assert await self._survivors(box, f"TREE={box.id}") == ""

    @pytest.mark.parametrize("tree", sorted(_TREES))
    async def test_cancelling_a_command_ends_the_whole_tree(self, tmp_path: Path, tree: str) -> None:
        async with self._box(tmp_path) as box:
            task = asyncio.create_task(box.exec.command(f"({_TREES[tree]}) | tee up", env={"TREE": box.id}))
            await box.exec.command("until [ -s up ]; do sleep 0.01; done", timeout=30)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await self._survivors(box, f"TREE={box.id}") == ""

    async def test_ending_one_command_spares_the_others(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            spared = asyncio.create_task(
                box.exec.command("until [ -e go ]; do sleep 0.01; done; echo alive", timeout=30)
            )
            with pytest.raises(CommandTimeoutError):
                await box.exec.command(_TREES["daemon"], timeout=0.3)
            await box.files.write("go", "")
            assert (await spared).stdout == "alive\n"

    async def test_delete_ends_what_runs_in_the_box(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox, Boxes(sandbox).create() as watcher:
            box = await Boxes(sandbox).create()
            running = asyncio.create_task(box.exec.command(f"({_TREES['daemon']}) | tee up", env={"TREE": box.id}))
            await box.exec.command("until [ -s up ]; do sleep 0.01; done", timeout=30)
            await box.delete()
            assert await self._survivors(watcher, f"TREE={box.id}") == ""
            assert (await running).exit_code != 0

    async def _survivors(self, box: Box, variable: str) -> str:
        """Process ids in whose environment *variable* stands, as a command in *box* sees them."""
        script = (
            "for f in /proc/[0-9]*; do tr '\\0' '\\n' 2>/dev/null < $f/environ | "
            'grep -qxF "$0" && [ "$f" != "/proc/$$" ] && echo $f; done; true'
        )
        return (await box.exec.command(["sh", "-c", script, variable], check=True)).stdout

    # --- files -------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("data", [b"", b"text\n", bytes(range(256)) * 5000, "grüße\r\n".encode()])
    async def test_bytes_come_back_as_they_were_written(self, tmp_path: Path, data: bytes) -> None:
        async with self._box(tmp_path) as box:
            await box.files.write("f", data)
            assert await box.files.read_bytes("f") == data

    async def test_text_and_odd_names_come_back_as_they_were_written(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            for name in ("ü ä.txt", "-rf", "a'b\"c", "new\nline", "日本/語", "...", "~"):
                await box.files.write(name, f"text of {name}")
                assert await box.files.read(name) == f"text of {name}"

    async def test_a_part_of_a_file_can_be_read(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            await box.files.write("f", "0123456789")
            assert await box.files.read_bytes("f", offset=3, limit=4) == b"3456"
            assert await box.files.read_bytes("f", offset=8, limit=10) == b"89"
            assert await box.files.read_bytes("f", offset=99) == b""

    async def test_writing_makes_the_directories_above(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            await box.files.write("a/b/c/f", "x")
            assert (await box.exec.command("cat a/b/c/f")).stdout == "x"

    async def test_writing_replaces_the_whole_file(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            await box.files.write("f", "long" * 1000)
            await box.files.write("f", "short")
            assert await box.files.read("f") == "short"
            assert [info.path for info in await box.files.list()] == ["f"]

    async def test_a_reader_sees_the_old_content_or_the_new_one(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            texts = ["a" * 200_000, "b" * 200_000]
            await box.files.write("f", texts[0])

            async def write() -> None:
                for n in range(20):
                    await box.files.write("f", texts[n % 2])

            writing = asyncio.create_task(write())
            while not writing.done():
                assert await box.files.read("f") in texts
            await writing

    async def test_permissions_are_set_where_asked_and_kept_where_not(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            await box.files.write("run.sh", "#!/bin/sh\necho ran\n", mode=0o750)
            await box.files.write("run.sh", "#!/bin/sh\necho again\n")
            assert (await box.exec.command(["./run.sh"])).stdout == "again\n"
            assert (await box.exec.command("stat -c %a run.sh")).stdout == "750\n"

    async def test_a_file_that_is_not_there_says_so(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            for asked in (box.files.read("missing"), box.files.list("missing"), box.files.read("a/missing")):
                with pytest.raises(BoxFileNotFoundError, match="missing"):
                    await asked

    async def test_a_directory_is_not_read_as_a_file_nor_a_file_as_a_directory(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            await box.files.write("d/f", "x")
            for asked in (
                box.files.read("d"),
                box.files.list("d/f"),
                box.files.write("d", ""),
                box.files.read("d/f/g"),
            ):
                with pytest.raises(SandboxError):
                    await asked

    async def test_reading_a_pipe_is_an_error_and_not_a_wait(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            await box.exec.command("mkfifo pipe", check=True)
            with pytest.raises(SandboxError, match="pipe"):
                await box.files.read("pipe")

    async def test_list_shows_entries_sorted_and_does_not_follow_links(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
            await box.exec.command(
                "mkdir -p d/e; echo abc > d/f; ln -s d l; ln -s nowhere m; echo x > d/e/g", check=True
            )
            flat = [(info.path, info.kind) for info in await box.files.list()]
            assert flat == [("d", "directory"), ("l", "symlink"), ("m", "symlink")]
            deep = {info.path: info for info in await box.files.list(recursive=True)}
            assert list(deep) == ["d", "d/e", "d/e/g", "d/f", "l", "m"]
            assert deep["d/f"].size_bytes == 4
            assert [info.path for info in await box.files.list("d")] == ["e", "f"]

    @pytest.mark.parametrize("path", ["../outside", "a/../../outside", "../../../../../../../../etc/passwd"])
    async def test_dots_do_not_lead_out_of_the_box(self, tmp_path: Path, path: str) -> None:
        async with self._box(tmp_path) as box:
            await box.files.write("a/f", "")
            with pytest.raises((BoxPathError, BoxFileNotFoundError)):
                await box.files.read(path)

    async def test_what_is_outside_is_neither_read_nor_written_through_links(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "secret").write_text("secret")
        async with self._box(tmp_path / "boxes") as box:
            await box.exec.command(f"ln -s {outside} dir; ln -s {outside}/secret file; ln -s {outside}/new new")
            for asked in (
                box.files.read("dir/secret"),
                box.files.read("file"),
                box.files.read(str(outside / "secret")),
                box.files.list("dir"),
                box.files.write("new", "x"),
                box.files.write("dir/secret", "x"),
                box.files.write("dir/new", "x"),
            ):
                with pytest.raises((BoxPathError, BoxFileNotFoundError)):
                    await asked
            assert {entry.name: entry.read_text() for entry in outside.iterdir()} == {"secret": "secret"}

    # --- git ---------------------------------------------------------------------------------------------------

    async def test_a_clone_can_be_changed_looked_at_and_committed(self, tmp_path: Path) -> None:
        async with self._box(tmp_path) as box:
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
            assert (
                await box.git.exec("log", "--format=%H %an %ae %s", "-1")
            ).stdout == f"{commit} A B a@b.example second\n"
            assert (await box.git.status()).clean
