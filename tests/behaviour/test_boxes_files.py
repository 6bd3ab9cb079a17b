"""Files of local boxes: no path leads out, links within work, and any tree can be removed."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from boxflow.boxes import Box, Boxes
from boxflow.errors import BoxFileNotFoundError, BoxPathError, SandboxError
from boxflow_backends.local_sandbox import LocalSandbox


@asynccontextmanager
async def a_box(root: Path) -> AsyncGenerator[Box, None]:
    async with Boxes(LocalSandbox(root)) as boxes, boxes.create() as box:
        yield box


@pytest.mark.parametrize(
    "path", ["..", "../x", "../box.json", "a/../../work", "/etc/passwd", "/", "//etc", "a/b/../../../home", "\0"]
)
async def test_a_path_out_of_the_box_is_refused_whatever_is_done(tmp_path: Path, path: str) -> None:
    async with a_box(tmp_path) as box:
        await box.files.mkdir("a/b")
        for asked in (
            lambda: box.files.read(path),
            lambda: box.files.write(path, ""),
            lambda: box.files.list(path),
            lambda: box.files.stat(path),
            lambda: box.files.mkdir(path),
            lambda: box.files.rename("a", path),
            lambda: box.files.rename(path, "c"),
            lambda: box.files.remove(path),
            lambda: box.exec.command("true", cwd=path),
        ):
            with pytest.raises(BoxPathError):
                await asked()
        assert (tmp_path / box.id / "box.json").exists()


async def test_a_prefix_of_the_box_s_path_is_not_the_box(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes:
        box, other = await boxes.create(box_id="a"), await boxes.create(box_id="ab")
        await other.files.write("f", "x")
        with pytest.raises(BoxPathError):
            await box.files.read(str(tmp_path / "ab" / "work" / "f"))


async def test_links_within_the_box_are_followed(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        await box.exec.command(
            "mkdir -p d/e; echo x > d/f; ln -s d l; ln -s ../f d/e/up; ln -s $PWD/d abs; "
            "ln -s l ll; ln -s $HOME h; ln -s d/f lf"
        )
        for path in ("l/f", "d/e/up", "abs/f", "ll/e/up", "l/e/../f", "lf"):
            assert await box.files.read(path) == "x\n", path
        assert [info.path for info in await box.files.list("ll")] == ["e", "f"]
        await box.files.write("h/new", "home")
        assert (await box.exec.command("cat $HOME/new")).stdout == "home"
        await box.files.write("lf", "through")
        assert (await box.exec.command("cat d/f; readlink lf")).stdout == "throughd/f\n"


@pytest.mark.parametrize("target", ["/etc", "../../..", "..", "../box.json", "/proc/self/root", "/proc/self/cwd"])
async def test_links_out_of_the_box_are_refused(tmp_path: Path, target: str) -> None:
    async with a_box(tmp_path) as box:
        await box.exec.command(f"ln -s {target} l; ln -s l l2; mkdir d; ln -s ../l d/l3")
        for path in ("l", "l/passwd", "l2/x", "d/l3", "d/../l"):
            with pytest.raises(BoxPathError):
                await box.files.read(path)
            with pytest.raises(BoxPathError):
                await box.files.write(path, "")
        assert (await box.files.stat("l")).kind == "symlink"
        await box.files.rename("l", "moved")
        await box.files.remove("moved")
        assert Path("/etc").is_dir()


async def test_links_in_a_circle_are_an_error(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        await box.exec.command("ln -s b a; ln -s a b; ln -s c/x c")
        for path in ("a", "b/x", "c"):
            with pytest.raises(SandboxError, match="symbolic links"):
                await box.files.read(path)


async def test_a_working_directory_that_became_a_link_is_not_followed(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        await box.exec.command("cd .. && rm -rf work && ln -s /etc work")
        for asked in (box.files.read("passwd"), box.files.list(), box.files.write("x", "")):
            with pytest.raises(BoxPathError):
                await asked


@pytest.mark.skipif(sys.platform != "linux", reason="two names are exchanged at once by renameat2(2)")
async def test_a_directory_swapped_for_a_link_meanwhile_leads_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("secret")
    async with a_box(tmp_path / "root") as box:
        work = tmp_path / "root" / box.id / "work"
        (work / "d").mkdir()
        (work / "d" / "f").write_text("inside")
        (work / "link").symlink_to(outside)
        stop = threading.Event()
        exchange = ctypes.CDLL(None).renameat2
        one, other = bytes(work / "d"), bytes(work / "link")

        def swap() -> None:
            while not stop.is_set():
                # AT_FDCWD is -100, RENAME_EXCHANGE is 2.
                assert exchange(-100, one, -100, other, 2) == 0

        swapper = threading.Thread(target=swap)
        swapper.start()
        read = refused = 0
        try:
            for _ in range(500):
                try:
                    assert await box.files.read("d/f") == "inside"
                    read += 1
                    await box.files.write("d/g", "x")
                except BoxPathError:
                    refused += 1
        finally:
            stop.set()
            swapper.join()
        assert read
        assert refused
        assert [entry.name for entry in outside.iterdir()] == ["f"]


async def test_home_and_temporary_files_have_absolute_paths(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        home, tmp = (await box.exec.command("echo $HOME; echo $TMPDIR")).stdout.split()
        await box.files.write(f"{home}/.config/agent.json", "{}")
        assert (
            await box.exec.command("cat ~/.config/agent.json; cd $TMPDIR && mktemp -p . | head -c 2")
        ).stdout == "{}./"
        assert len(await box.files.list(tmp)) == 1


async def test_directories_and_files_are_made_moved_looked_at_and_removed(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        await box.files.mkdir("a/b")
        await box.files.mkdir("a/b")
        await box.files.write("a/b/f", "12345", mode=0o640)
        info = await box.files.stat("a/b/f")
        assert (info.path, info.kind, info.size_bytes, info.mode) == ("a/b/f", "file", 5, 0o640)
        assert (await box.files.stat("a")).kind == "directory"
        await box.files.rename("a/b", "c/d/e")
        assert await box.files.read("c/d/e/f") == "12345"
        await box.files.write("other", "")
        await box.files.rename("c/d/e/f", "other")
        assert await box.files.read("other") == "12345"
        await box.files.remove("c")
        await box.files.remove("other")
        assert [entry.path for entry in await box.files.list()] == ["a"]


async def test_what_cannot_be_done_to_a_path_is_told(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        await box.files.write("f", "")
        for missing in (
            box.files.stat("no"),
            box.files.remove("no"),
            box.files.rename("no", "x"),
            box.files.remove("no/x"),
        ):
            with pytest.raises(BoxFileNotFoundError, match="no"):
                await missing
        for refused in (
            box.files.mkdir("f"),
            box.files.mkdir("f/g"),
            box.files.remove("."),
            box.files.rename(".", "x"),
            box.files.write(".", ""),
            box.files.write("", ""),
        ):
            with pytest.raises(SandboxError):
                await refused
        assert [entry.path for entry in await box.files.list("")] == ["f"]


async def test_names_that_are_no_text_are_listed_and_do_no_harm(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        await box.exec.command("touch $(printf 'a\\377')")
        assert [entry.path for entry in await box.files.list()] == ["a\\xff"]


async def test_data_that_is_no_text_is_read_as_bytes(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        await box.files.write("f", b"\xff\xfe")
        with pytest.raises(UnicodeDecodeError):
            await box.files.read("f")
        assert await box.files.read("f", encoding="latin-1") == "ÿþ"
        assert (await box.exec.command("cat f")).stdout == "\ufffd\ufffd"


async def test_output_is_cut_between_characters(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        for bound in range(100, 108):
            result = await box.exec.command("yes ü日😀 | head -c 5000", max_output_bytes=bound)
            kept = result.stdout.removesuffix("\ufffd").removesuffix("\ufffd").removesuffix("\ufffd")
            assert result.truncated
            assert "\ufffd" not in kept[:-8], result.stdout


_DEEP = """
import os
for _ in range(3000):
    os.mkdir("ddd")
    os.chdir("ddd")
open("f", "w").close()
"""


async def test_a_tree_deeper_than_any_path_is_listed_and_removed(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        # Deeper than PATH_MAX, Python's stack and the number of descriptors.
        await box.exec.command([sys.executable, "-c", _DEEP], check=True)
        await box.files.rename("ddd", "moved")
        assert [entry.path for entry in await box.files.list()] == ["moved"]
        await box.files.remove("moved")
        assert await box.files.list() == []
        await box.exec.command([sys.executable, "-c", _DEEP], check=True)
    assert not list(tmp_path.iterdir())


async def test_directories_without_permissions_are_removed(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        await box.exec.command(
            "mkdir -p a/b/c a/d; touch a/b/c/f a/d/f; chmod 000 a/b/c a/d; chmod 500 a/b; chmod 000 a"
        )
    assert not list(tmp_path.iterdir())


async def test_a_box_is_removed_while_something_writes_into_it(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        work = tmp_path / box.id / "work"
        (work / "d").mkdir()
        directory = os.open(work / "d", os.O_RDONLY)
        stop = threading.Event()

        def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                try:
                    os.close(os.open(f"f{number}", os.O_CREAT | os.O_WRONLY, dir_fd=directory))
                except FileNotFoundError:
                    return
                # One that writes faster than anybody can remove keeps its directory, whoever removes.
                time.sleep(0.0002)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            await box.delete()
        finally:
            stop.set()
            writer.join()
            os.close(directory)
    assert not list(tmp_path.iterdir())


async def test_removing_does_not_follow_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("kept")
    async with a_box(tmp_path / "root") as box:
        await box.exec.command(f"ln -s {outside} l; mkdir d; ln -s {outside} d/l")
        await box.files.remove("d")
    assert (outside / "f").read_text() == "kept"


async def test_what_an_interrupted_removal_left_goes_with_the_next_delete(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes:
        (tmp_path / ".gone-a~123" / "d").mkdir(parents=True)
        (tmp_path / ".gone-ab~123").mkdir()
        assert await boxes.list() == []
        await boxes.delete("a")
        assert [entry.name for entry in tmp_path.iterdir()] == [".gone-ab~123"]


async def test_many_writers_of_one_file_leave_one_whole_file(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        texts = [str(n) * 10_000 for n in range(8)]
        await asyncio.gather(*(box.files.write("d/f", text) for text in texts))
        assert await box.files.read("d/f") in texts
        assert [entry.path for entry in await box.files.list("d")] == ["f"]
