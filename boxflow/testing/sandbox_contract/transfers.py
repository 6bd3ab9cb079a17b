"""What does a sandbox promise about copying files and folders into a box and out of it?"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import stat
from pathlib import Path

import pytest

from boxflow.errors import BoxFileNotFoundError, BoxNotFoundError, SandboxError
from boxflow.testing.sandbox_contract.support import ODD_NAMES, Contract, flat_memory, made, quick_directory


def tree(top: Path) -> dict[str, bytes | str]:
    """What is below *top*: contents, targets of links, and directories by that name."""
    found: dict[str, bytes | str] = {}
    for directory, names, files in os.walk(top):
        for name in [*names, *files]:
            path = Path(directory, name)
            shown = str(path.relative_to(top))
            if path.is_symlink():
                found[shown] = f"-> {path.readlink()}"
            elif path.is_dir():
                found[shown] = "directory"
            else:
                found[shown] = path.read_bytes()
    return found


def mode_of(path: Path) -> int:
    """The permission bits of *path* itself."""
    return stat.S_IMODE(path.lstat().st_mode)


class TransferPromises(Contract):
    """Files and folders are copied whole, both ways, with flat memory."""

    async def test_a_file_comes_back_as_it_was_sent(self, tmp_path: Path) -> None:
        data = bytes(range(256)) * 1000
        sent = tmp_path / "sent"
        sent.write_bytes(data)
        sent.chmod(0o750)
        async with self.subject(tmp_path / "boxes") as subject:
            await subject.sandbox.upload(subject.id, sent, "a/b/received")
            assert (await subject.run("cat a/b/received")).stdout == data
            assert await subject.out("stat -c %a a/b/received") == "750\n"
            await subject.sandbox.download(subject.id, "a/b/received", tmp_path / "x/y/back")
        assert (tmp_path / "x/y/back").read_bytes() == data
        assert mode_of(tmp_path / "x/y/back") == 0o750

    async def test_a_folder_comes_back_as_it_was_sent(self, tmp_path: Path) -> None:
        sent = tmp_path / "sent"
        (sent / "d" / "empty").mkdir(parents=True)
        (sent / "d" / "f").write_bytes(b"\0\xff" * 1000)
        (sent / "d" / "private").write_bytes(b"p")
        (sent / "d" / "private").chmod(0o600)
        (sent / "run").write_bytes(b"#!/bin/sh\necho ran\n")
        (sent / "run").chmod(0o755)
        (sent / "link").symlink_to("d/f")
        (sent / "d" / "up").symlink_to("../run")
        (sent / "dangling").symlink_to("nowhere")
        async with self.subject(tmp_path / "boxes") as subject:
            await subject.sandbox.upload(subject.id, sent, "received")
            assert await subject.out("received/run; readlink received/link received/d/up received/dangling") == (
                "ran\nd/f\n../run\nnowhere\n"
            )
            assert await subject.out("stat -c %a received/d/private received/run") == "600\n755\n"
            await subject.sandbox.download(subject.id, "received", tmp_path / "back")
        assert tree(tmp_path / "back") == tree(sent)
        for name in ("run", "d/private"):
            assert mode_of(tmp_path / "back" / name) == mode_of(sent / name)

    async def test_a_folder_is_added_to_what_is_there(self, tmp_path: Path) -> None:
        (tmp_path / "sent" / "d").mkdir(parents=True)
        (tmp_path / "sent" / "d" / "f").write_text("new")
        async with self.subject(tmp_path / "boxes") as subject:
            await subject.out("mkdir d; echo old > d/f; echo kept > d/kept; echo kept > kept")
            await subject.sandbox.upload(subject.id, tmp_path / "sent", ".")
            assert await subject.out("cat d/f d/kept kept") == "newkept\nkept\n"
            (tmp_path / "back" / "d").mkdir(parents=True)
            (tmp_path / "back" / "d" / "f").write_text("older")
            (tmp_path / "back" / "d" / "mine").write_text("mine")
            await subject.sandbox.download(subject.id, ".", tmp_path / "back")
        assert tree(tmp_path / "back") == {
            "d": "directory",
            "d/f": b"new",
            "d/kept": b"kept\n",
            "d/mine": b"mine",
            "kept": b"kept\n",
        }

    async def test_what_is_sent_belongs_to_the_box_s_user(self, tmp_path: Path) -> None:
        (tmp_path / "sent" / "d").mkdir(parents=True)
        (tmp_path / "sent" / "d" / "f").write_text("x")
        async with self.subject(tmp_path / "boxes") as subject:
            await subject.sandbox.upload(subject.id, tmp_path / "sent", "d")
            await subject.sandbox.upload(subject.id, tmp_path / "sent" / "d" / "f", "f")
            assert (
                await subject.out('echo y >> d/d/f; echo y >> f; rm -r d; [ "$(stat -c %u f)" = "$(id -u)" ] && cat f')
                == "xy\n"
            )

    async def test_odd_names_are_copied_both_ways(self, tmp_path: Path) -> None:
        for name in (*ODD_NAMES, os.fsdecode(b"\xff\xfe"), "n" * 255, "deep/" * 50 + "f"):
            path = tmp_path / "sent" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.fsencode(name))
        async with self.subject(tmp_path / "boxes") as subject:
            await subject.sandbox.upload(subject.id, tmp_path / "sent", "-r")
            await subject.sandbox.download(subject.id, "-r", tmp_path / "back")
            assert tree(tmp_path / "back") == tree(tmp_path / "sent")
            for name in ODD_NAMES:
                await subject.sandbox.upload(subject.id, tmp_path / "sent" / name, f"single/{name}")
                await subject.sandbox.download(subject.id, f"single/{name}", tmp_path / "single" / name)
                assert (tmp_path / "single" / name).read_bytes() == name.encode()

    async def test_a_file_of_100_mb_is_copied_both_ways_with_flat_memory(self, tmp_path: Path) -> None:
        with quick_directory(tmp_path) as place:
            block, digest = os.urandom(1_000_000), hashlib.sha256()
            with (place / "sent").open("wb") as file:
                for n in range(100):
                    digest.update(b"%d" % n + block)
                    file.write(b"%d" % n + block)
            async with self.subject(place / "boxes") as subject:
                with flat_memory():
                    await subject.sandbox.upload(subject.id, place / "sent", "large")
                    assert (await subject.out("sha256sum < large")).split()[0] == digest.hexdigest()
                    (place / "sent").unlink()
                    await subject.sandbox.download(subject.id, "large", place / "back")
                with (place / "back").open("rb") as file:
                    assert hashlib.file_digest(file, "sha256").digest() == digest.digest()

    async def test_a_large_file_of_a_folder_is_copied_both_ways_with_flat_memory(self, tmp_path: Path) -> None:
        with quick_directory(tmp_path) as place:
            (place / "sent").mkdir()
            with (place / "sent" / "large").open("wb") as file:
                for n in range(100):
                    file.write(bytes([n]) * 1_000_000)
            async with self.subject(place / "boxes") as subject:
                with flat_memory():
                    await subject.sandbox.upload(subject.id, place / "sent", "d")
                    (place / "sent" / "large").unlink()
                    await subject.sandbox.download(subject.id, "d", place / "back")
            with (place / "back" / "large").open("rb") as file:
                for n in range(100):
                    assert file.read(1_000_000) == bytes([n]) * 1_000_000
                assert file.read() == b""

    async def test_ten_thousand_files_are_copied_both_ways(self, tmp_path: Path) -> None:
        with quick_directory(tmp_path) as place:
            for n in range(100):
                (place / "sent" / f"d{n}").mkdir(parents=True)
                for m in range(100):
                    (place / "sent" / f"d{n}" / f"f{m}").write_bytes(b"%d %d" % (n, m))
            async with self.subject(place / "boxes") as subject:
                with flat_memory():
                    await subject.sandbox.upload(subject.id, place / "sent", "received")
                    await subject.sandbox.download(subject.id, "received", place / "back")
            assert tree(place / "back") == tree(place / "sent")

    async def test_what_is_no_file_is_left_out_on_the_way_in(self, tmp_path: Path) -> None:
        sent = tmp_path / "sent"
        sent.mkdir()
        (sent / "f").write_text("x")
        os.mkfifo(sent / "pipe")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(sent / "s"))
            async with self.subject(tmp_path / "boxes") as subject:
                await subject.sandbox.upload(subject.id, sent, "d")
                assert await subject.out("ls d") == "f\n"

    async def test_what_is_not_there_says_so(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path / "boxes") as subject:
            with pytest.raises(FileNotFoundError, match="missing"):
                await subject.sandbox.upload(subject.id, tmp_path / "missing", "f")
            with pytest.raises(BoxFileNotFoundError, match="missing"):
                await subject.sandbox.download(subject.id, "missing", tmp_path / "f")
            with pytest.raises(BoxFileNotFoundError, match="missing"):
                await subject.sandbox.download(subject.id, "d/missing", tmp_path / "f")
        assert not (tmp_path / "f").exists()

    async def test_a_pipe_is_not_downloaded_and_not_waited_for(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path / "boxes") as subject:
            await subject.out("mkfifo pipe")
            async with asyncio.timeout(30):
                with pytest.raises(SandboxError, match="pipe"):
                    await subject.sandbox.download(subject.id, "pipe", tmp_path / "f")
        assert not (tmp_path / "f").exists()

    async def test_an_empty_folder_is_copied_both_ways(self, tmp_path: Path) -> None:
        (tmp_path / "sent").mkdir()
        async with self.subject(tmp_path / "boxes") as subject:
            await subject.sandbox.upload(subject.id, tmp_path / "sent", "d")
            assert await subject.out("[ -d d ] && ls -A d") == ""
            await subject.sandbox.download(subject.id, "d", tmp_path / "back")
        assert (tmp_path / "back").is_dir() and tree(tmp_path / "back") == {}

    async def test_a_download_replaces_a_file_whole(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_text("old" * 1000)
        async with self.subject(tmp_path / "boxes") as subject:
            await subject.sandbox.write_file(subject.id, "f", b"new")
            await subject.sandbox.download(subject.id, "f", tmp_path / "f")
        assert (tmp_path / "f").read_text() == "new"

    # --- cut short ---------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
    @pytest.mark.parametrize("what", ["cancelled", "deleted"])
    async def test_a_download_that_is_cut_short_leaves_no_part_of_a_file(
        self, tmp_path: Path, what: str, folder: bool
    ) -> None:
        with quick_directory(tmp_path) as place:
            async with self.sandbox(place / "boxes") as sandbox, made(sandbox) as subject:
                await subject.out("mkdir d; head -c 60000000 /dev/zero > d/f")
                downloading = asyncio.create_task(
                    sandbox.download(subject.id, "d" if folder else "d/f", place / "back" / ("d" if folder else "f"))
                )
                await asyncio.sleep(0.05)
                async with asyncio.timeout(30):
                    if what == "deleted":
                        await sandbox.delete(subject.id)
                    else:
                        downloading.cancel()
                    await asyncio.wait({downloading})
                if what == "deleted" and (error := downloading.exception()) is not None:
                    assert isinstance(error, SandboxError)
            files = [path for path in (place / "back").rglob("*") if path.is_file()]
            assert [path.stat().st_size for path in files] in ([], [60_000_000])
            assert {path.name for path in files} <= {"f"}

    @pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
    async def test_an_upload_that_is_cancelled_leaves_no_part_of_a_file(self, tmp_path: Path, folder: bool) -> None:
        with quick_directory(tmp_path) as place:
            (place / "sent").mkdir()
            (place / "sent" / "f").write_bytes(bytes(60_000_000))
            async with self.subject(place / "boxes") as subject:
                source, path = (place / "sent", "d") if folder else (place / "sent" / "f", "d/f")
                uploading = asyncio.create_task(subject.sandbox.upload(subject.id, source, path))
                await asyncio.sleep(0.05)
                uploading.cancel()
                async with asyncio.timeout(30):
                    await asyncio.wait({uploading})
                assert await subject.out("[ ! -e d ] || find d -type f -exec wc -c {} +") in ("", "60000000 d/f\n")

    async def test_a_box_that_is_deleted_ends_an_upload_to_it(self, tmp_path: Path) -> None:
        with quick_directory(tmp_path) as place:
            (place / "sent").write_bytes(bytes(60_000_000))
            async with self.sandbox(place / "boxes") as sandbox, made(sandbox) as subject:
                uploading = asyncio.create_task(sandbox.upload(subject.id, place / "sent", "f"))
                await asyncio.sleep(0.05)
                async with asyncio.timeout(30):
                    await sandbox.delete(subject.id)
                    await asyncio.wait({uploading})
                if (error := uploading.exception()) is not None:
                    assert isinstance(error, SandboxError)
                with pytest.raises(BoxNotFoundError):
                    await sandbox.get(subject.id)
