"""What does a sandbox promise about single files: whole, exact, and told from what is no file?"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from boxflow.errors import BoxFileNotFoundError, SandboxError
from boxflow.testing.sandbox_contract.support import ODD_NAMES, Contract, made


class FilePromises(Contract):
    """Files come back as they were written, under any name, and errors say what is in the way."""

    async def test_boxes_do_not_see_each_other_s_files(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox, made(sandbox) as one, made(sandbox) as other:
            await sandbox.write_file(one.id, "f", b"one")
            with pytest.raises(BoxFileNotFoundError):
                await sandbox.read_file(other.id, "f")

    async def test_bytes_come_back_as_they_were_written(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            for data in (b"", b"text\n", bytes(range(256)) * 5000, "grüße\r\n".encode(), b"\0"):
                await box.files.write("f", data)
                assert await box.files.read_bytes("f") == data

    async def test_files_of_some_megabytes_come_back_as_they_were_written(self, tmp_path: Path) -> None:
        data = bytes(range(251)) * 40_000
        async with self.subject(tmp_path) as subject:
            await subject.sandbox.write_file(subject.id, "f", data)
            assert (await subject.out("wc -c < f")).strip() == str(len(data))
            assert await subject.sandbox.read_file(subject.id, "f") == data

    async def test_text_and_odd_names_come_back_as_they_were_written(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            for name in ODD_NAMES:
                await box.files.write(name, f"text of {name}")
                assert await box.files.read(name) == f"text of {name}"
                assert (await box.files.stat(name)).kind == "file"
            listed = {info.path for info in await box.files.list(recursive=True) if info.kind == "file"}
            assert listed == set(ODD_NAMES)
            for name in ODD_NAMES:
                await box.files.rename(name, f"{name}-")
                await box.files.remove(f"{name}-")
            assert [info.path for info in await box.files.list()] == ["日本"]

    async def test_a_part_of_a_file_can_be_read(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            await box.files.write("f", "0123456789")
            assert await box.files.read_bytes("f", offset=3, limit=4) == b"3456"
            assert await box.files.read_bytes("f", offset=8, limit=10) == b"89"
            assert await box.files.read_bytes("f", offset=5) == b"56789"
            assert await box.files.read_bytes("f", limit=0) == b""
            assert await box.files.read_bytes("f", offset=99) == b""

    async def test_a_part_of_a_large_file_is_read_without_the_rest(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            await subject.out("dd if=/dev/zero of=large bs=1 count=0 seek=5000000000 2>/dev/null; echo tail >> large")
            assert await subject.sandbox.read_file(subject.id, "large", offset=4_999_999_998) == b"\0\0tail\n"
            assert await subject.sandbox.read_file(subject.id, "large", offset=1, limit=2) == b"\0\0"

    async def test_writing_makes_the_directories_above(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            await subject.sandbox.write_file(subject.id, "a/b/c/f", b"x")
            assert await subject.out("cat a/b/c/f") == "x"

    async def test_writing_replaces_the_whole_file(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            await box.files.write("f", "long" * 1000)
            await box.files.write("f", "short")
            assert await box.files.read("f") == "short"
            assert [info.path for info in await box.files.list()] == ["f"]

    async def test_a_reader_sees_the_old_content_or_the_new_one(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            texts = ["a" * 200_000, "b" * 200_000]
            await box.files.write("f", texts[0])

            async def write() -> None:
                for n in range(10):
                    await box.files.write("f", texts[n % 2])

            writing = asyncio.create_task(write())
            while not writing.done():
                assert await box.files.read("f") in texts
            await writing

    async def test_of_many_writers_one_wins_whole(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            contents = [bytes([n]) * 100_000 for n in range(6)]
            await asyncio.gather(*(subject.sandbox.write_file(subject.id, "d/f", data) for data in contents))
            assert await subject.sandbox.read_file(subject.id, "d/f") in contents
            assert [info.path for info in await subject.sandbox.list_files(subject.id, "d")] == ["f"]

    async def test_a_write_that_is_cancelled_leaves_the_old_content_or_the_new_one(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            old, new = b"old", b"new" * 1_000_000
            await subject.sandbox.write_file(subject.id, "f", old)
            writing = asyncio.create_task(subject.sandbox.write_file(subject.id, "f", new))
            for _ in range(20):
                await asyncio.sleep(0)
            writing.cancel()
            await asyncio.wait({writing})
            assert await subject.sandbox.read_file(subject.id, "f") in (old, new)

    async def test_permissions_are_set_where_asked_and_kept_where_not(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            await box.files.write("run.sh", "#!/bin/sh\necho ran\n", mode=0o750)
            await box.files.write("run.sh", "#!/bin/sh\necho again\n")
            assert (await box.exec.command(["./run.sh"])).stdout == "again\n"
            assert (await box.exec.command("stat -c %a run.sh")).stdout == "750\n"

    async def test_stat_tells_kind_size_mode_and_time(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            setup = "echo abc > f; chmod 640 f; touch -d @1000000000 f; mkdir -m 700 d; ln -s f l; ln -s no m; mkfifo p"
            await box.exec.command(setup, check=True)
            file = await box.files.stat("f")
            assert (file.path, file.kind, file.size_bytes, file.mode) == ("f", "file", 4, 0o640)
            assert file.modified_at == 1_000_000_000
            assert [(await box.files.stat(name)).kind for name in "dlmp"] == [
                "directory",
                "symlink",
                "symlink",
                "other",
            ]
            assert (await box.files.stat("d")).mode == 0o700

    async def test_a_file_that_is_not_there_says_so(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            await box.exec.command("ln -s missing link", check=True)
            for asked in (
                box.files.read("missing"),
                box.files.read("link"),
                box.files.read("a/missing"),
                box.files.list("missing"),
                box.files.stat("missing"),
                box.files.rename("missing", "b"),
                box.files.remove("missing"),
            ):
                with pytest.raises(BoxFileNotFoundError, match=r"missing|link"):
                    await asked

    async def test_a_directory_is_not_read_as_a_file_nor_a_file_as_a_directory(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            await box.files.write("d/f", "x")
            for asked in (
                box.files.read("d"),
                box.files.list("d/f"),
                box.files.write("d", ""),
                box.files.write("d/f/g", ""),
                box.files.read("d/f/g"),
                box.files.mkdir("d/f"),
                box.files.mkdir("d/f/g"),
            ):
                with pytest.raises(SandboxError, match="d"):
                    await asked
            assert await box.files.read("d/f") == "x"

    async def test_reading_a_pipe_is_an_error_and_not_a_wait(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            await box.exec.command("mkfifo pipe", check=True)
            async with asyncio.timeout(30):
                with pytest.raises(SandboxError, match="pipe"):
                    await box.files.read("pipe")

    async def test_a_name_that_no_file_can_have_is_an_error(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            for name in ("a\0b", "n" * 256):
                with pytest.raises(SandboxError):
                    await subject.sandbox.write_file(subject.id, name, b"")
                with pytest.raises(SandboxError):
                    await subject.sandbox.read_file(subject.id, name)

    # --- directories -------------------------------------------------------------------------------------------

    async def test_list_shows_entries_sorted_and_does_not_follow_links(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            await box.exec.command(
                "mkdir -p d/e; echo abc > d/f; ln -s d l; ln -s nowhere m; echo x > d/e/g; echo > .hidden", check=True
            )
            flat = [(info.path, info.kind) for info in await box.files.list()]
            assert flat == [(".hidden", "file"), ("d", "directory"), ("l", "symlink"), ("m", "symlink")]
            deep = {info.path: info for info in await box.files.list(recursive=True)}
            assert list(deep) == [".hidden", "d", "d/e", "d/e/g", "d/f", "l", "m"]
            assert deep["d/f"].size_bytes == 4
            assert [info.path for info in await box.files.list("d")] == ["e", "f"]

    async def test_a_thousand_entries_are_listed(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            names = sorted(f"{n} {'x' * 100}" for n in range(1000))
            await subject.out('mkdir d; cd d; for n in $(seq 0 999); do : > "$n $0"; done'.replace("$0", "x" * 100))
            assert [info.path for info in await subject.sandbox.list_files(subject.id, "d")] == names

    async def test_an_empty_directory_has_no_entries(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            await subject.sandbox.make_directory(subject.id, "a/b")
            await subject.sandbox.make_directory(subject.id, "a/b")
            assert not await subject.sandbox.list_files(subject.id, "a/b")
            assert not await subject.sandbox.list_files(subject.id, "a/b", recursive=True)

    async def test_files_and_directories_are_renamed(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            await box.files.write("f", "new")
            await box.files.write("g", "old")
            await box.files.rename("f", "g")
            await box.files.rename("g", "d/e/g")
            await box.files.rename("d", "moved")
            assert [info.path for info in await box.files.list(recursive=True)] == ["moved", "moved/e", "moved/e/g"]
            assert await box.files.read("moved/e/g") == "new"

    async def test_renaming_a_link_moves_the_link(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            await box.exec.command("echo x > f; ln -s f l; mkdir d; ln -s d k", check=True)
            await box.files.rename("l", "m")
            await box.files.rename("f", "k")
            kinds = {info.path: info.kind for info in await box.files.list()}
            assert kinds == {"d": "directory", "k": "file", "m": "symlink"}

    async def test_removing_takes_a_directory_whole_and_of_a_link_only_the_link(self, tmp_path: Path) -> None:
        async with self.box(tmp_path) as box:
            setup = "mkdir -p d/e/f kept; echo x > d/e/f/g; echo x > kept/f; ln -s ../kept d/l; ln -s kept l"
            await box.exec.command(f"{setup}; chmod 500 d/e/f", check=True)
            await box.files.remove("d")
            await box.files.remove("l")
            assert [info.path for info in await box.files.list(recursive=True)] == ["kept", "kept/f"]
