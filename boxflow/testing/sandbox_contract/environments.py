"""What does a sandbox promise about where a process finds itself: its directory, its variables, its user?"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from boxflow.errors import NotSupportedError, SandboxError
from boxflow.ports import BoxSpec, Capability
from boxflow.testing.sandbox_contract.support import Contract, made


class EnvironmentPromises(Contract):
    """A process finds what was asked for, a clean environment, and places of its own."""

    async def test_the_working_directory_is_the_same_for_commands_and_files(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            await box.files.write("here", "")
            await box.files.write("sub/there", "")
            assert (await box.exec.command("ls")).stdout == "here\nsub\n"
            assert (await box.exec.command("ls", cwd="sub")).stdout == "there\n"
            absolute = (await box.exec.command("pwd", cwd="sub")).stdout.strip()
            assert (await box.exec.command("ls", cwd=absolute)).stdout == "there\n"
            assert await box.files.read(f"{absolute}/there") == ""

    async def test_a_new_box_s_working_directory_is_empty(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            assert await subject.out("ls -A") == ""
            assert not await subject.sandbox.list_files(subject.id, ".", recursive=True)

    async def test_a_directory_of_any_name_can_be_worked_in(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            for name in ("with blank", "-rf", "$HOME", "ü", "new\nline", "a'b"):
                await subject.sandbox.write_file(subject.id, f"{name}/f", name.encode())
                assert (await subject.run("cat f", cwd=name)).stdout == name.encode()

    async def test_a_directory_that_is_not_there_is_an_error(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            await subject.sandbox.write_file(subject.id, "file", b"")
            for cwd in ("missing", "file", "file/below"):
                with pytest.raises(SandboxError, match=cwd):
                    await subject.run("true", cwd=cwd)

    async def test_a_process_may_change_its_directory_and_the_next_one_starts_anew(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            before = await subject.out("pwd; mkdir d; cd d")
            assert await subject.out("pwd") == before

    # --- variables ---------------------------------------------------------------------------------------------

    async def test_variables_of_the_call_win_over_those_of_the_box(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path, BoxSpec(env={"A": "box", "B": "box"})) as subject:
            assert await subject.out("echo $A $B", env={"B": "call"}) == "box call\n"
            assert await subject.out("echo $A $B") == "box box\n"

    async def test_variables_hold_any_text(self, tmp_path: Path) -> None:
        odd = {
            "BLANKS": " a  b ",
            "LINES": "one\ntwo\n\n",
            "QUOTES": "'\"`\\$HOME$(id)",
            "EQUALS": "a=b=c",
            "UNICODE": "grüße 日本 🎉",
            "EMPTY": "",
            "LONG": "x" * 50_000,
        }
        async with self.subject(
            tmp_path, BoxSpec(env={f"BOX_{name}": value for name, value in odd.items()})
        ) as subject:
            for prefix in ("", "BOX_"):
                script = "; ".join(f'printf "%s|" "${prefix}{name}"' for name in odd)
                assert await subject.out(script, env=odd) == "".join(f"{value}|" for value in odd.values())

    async def test_the_environment_of_the_caller_does_not_enter_the_box(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CONTRACT_SECRET", "hunter2")
        async with self.subject(tmp_path) as subject:
            assert "hunter2" not in await subject.out("env")

    async def test_a_variable_of_one_command_is_not_there_in_the_next(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            assert "passing" in await subject.out("env", env={"ONCE": "passing"})
            assert "passing" not in await subject.out("env; export ONCE=passing")
            assert "passing" not in await subject.out("env")

    async def test_a_process_knows_its_box_and_finds_places_of_its_own(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            script = """
                echo "$BOXFLOW_BOX"
                for place in "$HOME" "${TMPDIR:-/tmp}" "$BOXFLOW_JOBS" .; do
                    [ -d "$place" ] && echo x > "$place/f" && cat "$place/f"
                done
            """
            assert await subject.out(script) == f"{subject.id}\nx\nx\nx\nx\n"
            # Made before it is asked for, and not in the way of the box's own files.
            assert [info.path for info in await subject.sandbox.list_files(subject.id, ".")] == ["f"]

    async def test_home_and_temporary_directory_belong_to_the_box(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox, made(sandbox) as one, made(sandbox) as other:
            places = ("$HOME/f", "${TMPDIR:-/tmp}/f", "$BOXFLOW_JOBS/f", "f")
            for place in places:
                await one.out(f'echo x > "{place}"')
            for place in places:
                assert (await other.run(f'cat "{place}"')).status != 0, place

    async def test_the_usual_programs_are_there(self, tmp_path: Path) -> None:
        programs = ["cat", "dd", "head", "mkdir", "mkfifo", "mv", "rm", "sh", "sleep", "tail", "wc"]
        async with self.subject(tmp_path) as subject:
            found = await subject.out(f"for p in {shlex.join(programs)}; do command -v $p >/dev/null && echo $p; done")
            assert found.split() == programs

    # --- users -------------------------------------------------------------------------------------------------

    async def test_another_user_is_served_or_refused(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            if Capability.USERS not in subject.sandbox.capabilities:
                with pytest.raises(NotSupportedError):
                    await subject.run("id", user="boxflow-contract")
                return
            assert (await subject.out("id -u", user="root")).strip() == "0"
            assert (await subject.out("id -u")).strip() != "0", "the default user of a box is never root"
            with pytest.raises(SandboxError, match="boxflow-contract"):
                await subject.run("id", user="boxflow-contract")

    async def test_a_user_of_the_box_is_served_or_refused(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox:
            if Capability.USERS not in sandbox.capabilities:
                with pytest.raises(NotSupportedError):
                    await sandbox.create("refused", BoxSpec(user="boxflow-contract"), {})
                return
            async with made(sandbox, BoxSpec(user="root")) as subject:
                assert (await subject.out("id -u")).strip() == "0"
