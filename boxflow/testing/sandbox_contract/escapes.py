"""What does a sandbox promise about tricks: nothing that a box does to its files leads out of it?"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Sequence
from pathlib import Path

import pytest

from boxflow.errors import BoxFileNotFoundError, BoxPathError, SandboxError
from boxflow.ports import Capability, FileInfo
from boxflow.testing.sandbox_contract.support import Contract, Subject, made
from boxflow.testing.sandbox_contract.transfers import mode_of, tree

# Swaps a directory and a link to outside, as fast as it can.
_SWAPPING = """
import os, sys
os.mkdir("d")
os.symlink(sys.argv[1], "l")
print("up", flush=True)
while True:
    for one, other in (("d", "aside"), ("l", "d"), ("d", "l"), ("aside", "d")):
        try:
            os.rename(one, other)
        except OSError:
            pass
"""


class EscapePromises(Contract):
    """What is outside of a box is neither read nor written through it."""

    async def test_dots_do_not_lead_out_of_the_box(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            sandbox, box_id = subject.sandbox, subject.id
            await sandbox.write_file(box_id, "a/f", b"")
            for path in ("../outside", "a/../../outside", "../../../../../../../../etc/no-such-file"):
                calls: tuple[Awaitable[object], ...] = (
                    sandbox.read_file(box_id, path),
                    sandbox.list_files(box_id, path),
                    sandbox.stat_file(box_id, path),
                    sandbox.remove_file(box_id, path),
                    sandbox.rename_file(box_id, path, "g"),
                    sandbox.download(box_id, path, tmp_path / "back"),
                )
                for asked in calls:
                    with pytest.raises((BoxPathError, BoxFileNotFoundError)):
                        await asked
        assert not (tmp_path / "back").exists()

    async def test_dots_within_the_box_are_fine(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            await subject.sandbox.write_file(subject.id, "a/../b/./f", b"x")
            assert await subject.sandbox.read_file(subject.id, "b/../b/f") == b"x"

    async def test_links_within_the_box_are_followed(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            await subject.out('mkdir d; echo x > d/f; ln -s d l; ln -s l/f m; ln -s "$PWD/d" absolute')
            for path in ("l/f", "m", "absolute/f"):
                assert await subject.sandbox.read_file(subject.id, path) == b"x\n"
            await subject.sandbox.write_file(subject.id, "l/g", b"y")
            assert await subject.out("cat d/g") == "y"

    async def test_links_in_a_circle_are_an_error_and_not_a_hang(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            await subject.out("ln -s a b; ln -s b a")
            for path in ("a", "a/f"):
                with pytest.raises(SandboxError):
                    await subject.sandbox.read_file(subject.id, path)

    async def test_what_is_outside_is_not_read_through_links(self, tmp_path: Path) -> None:
        outside = _outside(tmp_path)
        async with self.subject(tmp_path / "boxes") as subject:
            sandbox, box_id = subject.sandbox, subject.id
            await subject.out(f"ln -s {outside} dir; ln -s {outside}/secret file; ln -s dir/secret chain")
            reading: tuple[Awaitable[bytes | Sequence[FileInfo] | FileInfo | None], ...] = (
                sandbox.read_file(box_id, "dir/secret"),
                sandbox.read_file(box_id, "file"),
                sandbox.read_file(box_id, "chain"),
                sandbox.read_file(box_id, str(outside / "secret")),
                sandbox.list_files(box_id, "dir"),
                sandbox.stat_file(box_id, "dir/secret"),
                sandbox.download(box_id, "dir/secret", tmp_path / "back" / "a"),
                sandbox.download(box_id, "dir", tmp_path / "back" / "b"),
                sandbox.download(box_id, "file", tmp_path / "back" / "c"),
            )
            for asked in reading:
                with pytest.raises((BoxPathError, BoxFileNotFoundError)):
                    await asked
        assert tree(tmp_path / "back") == {}

    async def test_what_is_outside_is_not_written_through_links(self, tmp_path: Path) -> None:
        outside = _outside(tmp_path)
        (tmp_path / "sent").mkdir()
        (tmp_path / "sent" / "secret").write_text("changed")
        async with self.subject(tmp_path / "boxes") as subject:
            sandbox, box_id = subject.sandbox, subject.id
            await subject.out(f"ln -s {outside} dir; ln -s {outside}/secret file; ln -s {outside}/new new; echo x > f")
            writing: tuple[Awaitable[None], ...] = (
                sandbox.write_file(box_id, "new", b"x"),
                sandbox.write_file(box_id, "file", b"x"),
                sandbox.write_file(box_id, "dir/secret", b"x"),
                sandbox.write_file(box_id, "dir/new", b"x"),
                sandbox.write_file(box_id, str(outside / "secret"), b"x"),
                sandbox.make_directory(box_id, "dir/d"),
                sandbox.rename_file(box_id, "f", "dir/f"),
                sandbox.rename_file(box_id, "dir/secret", "secret"),
                sandbox.remove_file(box_id, "dir/secret"),
                sandbox.upload(box_id, tmp_path / "sent", "dir"),
                sandbox.upload(box_id, tmp_path / "sent" / "secret", "dir/secret"),
                sandbox.upload(box_id, tmp_path / "sent" / "secret", "file"),
            )
            # In an isolated box those paths are its own, and what is written there is written in the box.
            isolated = Capability.ISOLATION in sandbox.capabilities
            for asked in writing:
                with (
                    contextlib.suppress(SandboxError)
                    if isolated
                    else pytest.raises((BoxPathError, BoxFileNotFoundError))
                ):
                    await asked
            await sandbox.remove_file(box_id, "dir")
        assert _is_untouched(outside)

    async def test_a_folder_that_is_sent_does_not_follow_links_of_the_box(self, tmp_path: Path) -> None:
        outside = _outside(tmp_path)
        (tmp_path / "sent" / "dir").mkdir(parents=True)
        (tmp_path / "sent" / "dir" / "secret").write_text("changed")
        (tmp_path / "sent" / "file").write_text("replaced")
        async with self.subject(tmp_path / "boxes") as subject:
            await subject.out(f"mkdir to; ln -s {outside} to/dir; ln -s {outside}/secret to/file")
            with contextlib.suppress(SandboxError):
                await subject.sandbox.upload(subject.id, tmp_path / "sent", "to")
        assert _is_untouched(outside)

    async def test_a_folder_that_is_fetched_brings_nothing_dangerous(self, tmp_path: Path) -> None:
        outside = _outside(tmp_path)
        async with self.subject(tmp_path / "boxes") as subject:
            await subject.out(f"""
                mkdir -p d/sub; cd d
                echo x > f; ln f hard; mkfifo pipe
                ln -s /etc/passwd absolute; ln -s {outside} out; ln -s ../../../../../.. up
                ln -s sub/../../outside dots
                ln -s f inside; ln -s ../f sub/inside
                echo x > root; chmod 6777 root; chmod 777 sub
            """)
            await subject.sandbox.download(subject.id, "d", tmp_path / "back")
        back = tmp_path / "back"
        assert tree(back) == {
            "f": b"x\n",
            "hard": b"x\n",
            "root": b"x\n",
            "sub": "directory",
            "inside": "-> f",
            "sub/inside": "-> ../f",
        }
        assert (mode_of(back / "root"), mode_of(back / "sub")) == (0o755, 0o755)
        assert (back / "f").stat().st_nlink == 1

    async def test_what_is_fetched_does_not_follow_links_of_the_target(self, tmp_path: Path) -> None:
        outside = _outside(tmp_path)
        (tmp_path / "back").mkdir()
        (tmp_path / "back" / "d").symlink_to(outside)
        async with self.subject(tmp_path / "boxes") as subject:
            await subject.out("mkdir -p top/d; echo changed > top/d/secret")
            with pytest.raises(SandboxError, match="d"):
                await subject.sandbox.download(subject.id, "top", tmp_path / "back")
        assert _is_untouched(outside)

    @pytest.mark.parametrize("what", ["files", "upload", "download"])
    async def test_a_directory_that_keeps_turning_into_a_link_leads_nowhere(self, tmp_path: Path, what: str) -> None:
        outside = _outside(tmp_path)
        (tmp_path / "sent" / "d").mkdir(parents=True)
        for n in range(20):
            (tmp_path / "sent" / "d" / f"f{n}").write_text("x")
        async with self.sandbox(tmp_path / "boxes") as sandbox, made(sandbox) as subject:
            process = await subject.spawn(["python3", "-c", _SWAPPING, str(outside)])
            async for _ in process.read():
                break
            for n in range(8):
                with contextlib.suppress(SandboxError):
                    await self._use(subject, what, tmp_path, n)
            await process.kill()
        assert _is_untouched(outside)
        # Its own links may have come along, as links that lead nowhere.
        for path in (tmp_path / "back").rglob("*"):
            assert path.is_dir() or "secret" not in path.read_text(), path

    async def _use(self, subject: Subject, what: str, place: Path, n: int) -> None:
        match what:
            case "files":
                with contextlib.suppress(SandboxError):
                    assert await subject.sandbox.read_file(subject.id, "d/secret") != b"secret"
                await subject.sandbox.write_file(subject.id, f"d/new{n}", b"x")
            case "upload":
                await subject.sandbox.upload(subject.id, place / "sent", ".")
            case _:
                await subject.sandbox.download(subject.id, ".", place / "back" / str(n))

    async def test_the_system_s_files_are_not_written(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            for path in ("/etc/boxflow-contract", "/boxflow-contract"):
                with pytest.raises(SandboxError):
                    await subject.sandbox.write_file(subject.id, path, b"x")
            with pytest.raises(SandboxError):
                await subject.sandbox.make_directory(subject.id, "/etc/boxflow-contract")
        assert not _exists("/etc/boxflow-contract") and not _exists("/boxflow-contract")


def _outside(place: Path) -> Path:
    """A directory of the machine with a secret in it."""
    outside = place / "outside"
    outside.mkdir(parents=True)
    (outside / "secret").write_text("secret")
    return outside


def _exists(path: str) -> bool:
    return os.path.lexists(path)


def _is_untouched(outside: Path) -> bool:
    return tree(outside) == {"secret": b"secret"}
