"""Files cross the border of a box whole, in constant memory, and no trick in a tar leads out of the target."""

from __future__ import annotations

import asyncio
import errno
import gc
import io
import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from boxflow.errors import BoxPathError, SandboxError
from boxflow_backends.archives import (
    Limits,
    Source,
    Unpacked,
    pack,
    packed,
    packed_chunks,
    unpack,
    unpack_chunks,
    write_whole,
)

ODD_NAMES = [
    "ü ä.txt",
    "-rf",
    "a'b\"c",
    "new\nline",
    "日本",
    "...",
    "~",
    " ",
    "back\\slash",
    "*",
    os.fsdecode(b"\xff\xfe"),
]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory in memory, where there is one: ten thousand files are quick there."""
    memory = Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
    yield directory
    shutil.rmtree(directory)


def member(name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, link, mode, len(data)
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + data + bytes(-len(data) % 512)


def pax(records: dict[str, str], base: bytes) -> bytes:
    body = b""
    for key, value in records.items():
        record = f" {key}={value}\n".encode()
        length = len(record) + len(str(len(record)))
        length = len(record) + len(str(length))
        body += str(length).encode() + record
    return member("pax", body, kind=b"x") + base


def archive(*members: bytes) -> io.BytesIO:
    return io.BytesIO(b"".join(members) + bytes(1024))


class Joined:
    """Chunks, to be read like a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        if not self._rest:
            self._rest = next(self._chunks, b"")
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def copy(source: Source, target: Path | int, *, names: Collection[str] | None = None) -> Unpacked:
    return unpack(Joined(packed_chunks(source, names=names)), target)


def tree(top: Path) -> dict[str, str | bytes]:
    """What is below *top*: contents of files, targets of links, modes of directories."""
    found: dict[str, str | bytes] = {}
    for directory, names, files in os.walk(top):
        for name in [*names, *files]:
            path = Path(directory, name)
            shown = str(path.relative_to(top))
            if path.is_symlink():
                found[shown] = f"-> {os.readlink(path)}"
            else:
                found[shown] = "directory" if path.is_dir() else path.read_bytes()
    return found


def packed_by_tar(*arguments: str | Path) -> bytes:
    return subprocess.run(["tar", "-cf", "-", *arguments], capture_output=True, check=True).stdout


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# --- round trips -------------------------------------------------------------------------------------------------


def test_ten_thousand_small_files_come_back_as_they_were(place: Path) -> None:
    for n in range(10_000):
        directory = place / "source" / f"d{n % 100}" / "deep"
        if n < 100:
            directory.mkdir(parents=True)
        (directory / f"f{n}").write_bytes(b"%d" % n)
    assert copy(place / "source", place / "target").files == 10_000
    assert tree(place / "target") == tree(place / "source")


def test_odd_names_come_back_as_they_were(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in [*ODD_NAMES, "n" * 255, *(f"{'deep/' * 60}{name}" for name in ODD_NAMES)]:
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))
    copy(source, tmp_path / "target")
    assert tree(tmp_path / "target") == tree(source)


def test_permissions_times_links_and_empty_directories_are_kept(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "empty").mkdir(parents=True)
    (source / "run").write_text("#!/bin/sh")
    (source / "run").chmod(0o750)
    (source / "private").mkdir(mode=0o700)
    (source / "private" / "key").write_text("k")
    (source / "private" / "key").chmod(0o600)
    (source / "private" / "up").symlink_to("../run")
    os.utime(source / "run", (1_000_000_000, 1_000_000_000))
    copy(source, target)
    assert tree(target) == tree(source)
    for name in ("empty", "run", "private", "private/key"):
        assert mode_of(target / name) == mode_of(source / name)
    assert (target / "run").stat().st_mtime == 1_000_000_000


def test_a_directory_that_its_owner_may_not_write_to_is_filled_before_it_is_closed(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "a" / "b").mkdir(parents=True)
    (source / "a" / "b" / "f").write_text("x")
    (source / "a" / "b").chmod(0o555)
    (source / "a").chmod(0o500)
    try:
        copy(source, target)
        assert (mode_of(target / "a"), mode_of(target / "a" / "b")) == (0o500, 0o555)
        assert (target / "a" / "b" / "f").read_text() == "x"
    finally:
        for path in (source / "a", source / "a" / "b", target / "a", target / "a" / "b"):
            path.chmod(0o700)


def test_a_file_is_packed_under_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"1" * 1000)
    copy(tmp_path / "one", tmp_path / "target")
    assert tree(tmp_path / "target") == {"one": b"1" * 1000}


def test_a_directory_may_be_given_by_an_open_descriptor_that_stays_open(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "source" / "f").write_text("x")
    source, target = os.open(tmp_path / "source", os.O_RDONLY), os.open(tmp_path / "target", os.O_RDONLY)
    try:
        copy(source, target)
        copy(source, target)
    finally:
        os.close(source)
        os.close(target)
    assert tree(tmp_path / "target") == {"f": b"x"}


def test_only_the_entries_that_are_named_are_packed(tmp_path: Path) -> None:
    for name in ("work/f", "home/f", "tmp/f"):
        (tmp_path / "source" / name).parent.mkdir(parents=True)
        (tmp_path / "source" / name).write_text(name)
    copy(tmp_path / "source", tmp_path / "target", names=("work", "home"))
    assert set(tree(tmp_path / "target")) == {"work", "work/f", "home", "home/f"}


def test_other_tars_read_what_is_packed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "d" / ("long" * 40)).mkdir(parents=True)
    (source / "d" / ("long" * 40) / ("name" * 40)).write_bytes(b"data")
    (source / "l").symlink_to("d/" + "long" * 40)
    with (tmp_path / "a.tar").open("wb") as file:
        pack(source, file)
    (tmp_path / "target").mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "a.tar", "-C", tmp_path / "target"], check=True)
    assert tree(tmp_path / "target") == tree(source)


@pytest.mark.parametrize("form", ["gnu", "pax", "ustar", "v7", "oldgnu"])
def test_what_other_tars_write_is_unpacked(tmp_path: Path, form: str) -> None:
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    (source / "d" / "f").write_bytes(b"data" * 1000)
    (source / "d" / "l").symlink_to("f")
    os.link(source / "d" / "f", source / "d" / "same")
    long = source / ("long" * 20)
    if form != "v7":
        (long / ("name" * 20)).mkdir(parents=True)
        (long / ("name" * 20) / "ü").write_bytes(b"")
    unpack(io.BytesIO(packed_by_tar(f"--format={form}", "-C", source, ".")), tmp_path / "target")
    assert tree(tmp_path / "target") == tree(source)
    assert (tmp_path / "target/d/f").stat().st_ino != (tmp_path / "target/d/same").stat().st_ino


def test_what_is_in_the_target_stays_or_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (target / "d").mkdir(parents=True, mode=0o700)
    (target / "d").chmod(0o700)
    (target / "d" / "kept").write_text("kept")
    (target / "d" / "old").write_text("old")
    unpack(archive(member("d/", kind=tarfile.DIRTYPE, mode=0o755), member("d/old", b"new")), target)
    assert tree(target) == {"d": "directory", "d/kept": b"kept", "d/old": b"new"}
    assert mode_of(target / "d") == 0o700


# --- memory ------------------------------------------------------------------------------------------------------

PEAK = """
import resource, sys
from pathlib import Path
from boxflow_backends.archives import pack, unpack

def copy(source, target, archive):
    with archive.open("wb") as file:
        pack(source, file)
    with archive.open("rb") as file:
        unpack(file, target)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

small, large, target, archive = map(Path, sys.argv[1:])
print(-copy(small, target, archive) + copy(large, target, archive))
"""


def test_a_file_of_100_mb_takes_no_more_memory_than_a_small_one(place: Path) -> None:
    (place / "small").write_bytes(b"x" * 1_000_000)
    with (place / "large").open("wb") as file:
        for n in range(100):
            file.write(bytes([n]) * 1_000_000)
    arguments = [str(place / name) for name in ("small", "large", "out", "archive")]
    found = subprocess.run(
        [sys.executable, "-c", PEAK, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=True,
    )
    # KiB on Linux, bytes on macOS.
    unit = 1024 if sys.platform == "linux" else 1
    assert int(found.stdout) * unit < 10_000_000
    assert (place / "out" / "large").stat().st_size == 100_000_000


# --- while it is read --------------------------------------------------------------------------------------------


def test_pipes_and_sockets_are_left_out_and_waited_for_by_nobody(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    os.mkfifo(source / "pipe")
    (source / "f").write_text("x")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(source / "socket"))
        copy(source, tmp_path / "target")
    assert tree(tmp_path / "target") == {"f": b"x"}


@pytest.mark.parametrize(("change", "expected"), [(-700_000, 300_000), (700_000, 1_000_000)])
def test_a_file_that_changes_its_size_meanwhile_does_not_damage_the_archive(
    tmp_path: Path, change: int, expected: int
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_bytes(b"a" * 1_000_000)
    (source / "b").write_bytes(b"b" * 10)
    chunks = packed_chunks(source)
    taken = [next(chunks)]
    os.truncate(source / "a", 1_000_000 + change)
    taken += chunks
    unpack(io.BytesIO(b"".join(taken)), tmp_path / "target")
    data = (tmp_path / "target" / "a").read_bytes()
    assert len(data) == 1_000_000 and data[:expected] == b"a" * len(data[:expected])
    assert (tmp_path / "target" / "b").read_bytes() == b"b" * 10


def test_what_vanishes_meanwhile_is_left_out(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "z").mkdir(parents=True)
    (source / "a").write_bytes(b"a" * 1_000_000)
    (source / "gone").write_bytes(b"")
    (source / "z" / "gone").write_bytes(b"")
    chunks = packed_chunks(source)
    taken = [next(chunks)]
    shutil.rmtree(source / "z")
    (source / "gone").unlink()
    taken += chunks
    unpack(io.BytesIO(b"".join(taken)), tmp_path / "target")
    assert tree(tmp_path / "target") == {"a": b"a" * 1_000_000}


def test_a_directory_that_becomes_a_link_meanwhile_is_not_followed(tmp_path: Path) -> None:
    source, outside = tmp_path / "source", tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (source / "d").mkdir(parents=True)
    (source / "a").write_bytes(b"a" * 1_000_000)
    chunks = packed_chunks(source)
    taken = [next(chunks)]
    (source / "d").rmdir()
    (source / "d").symlink_to(outside)
    taken += chunks
    assert b"secret" not in b"".join(taken)


def test_a_source_that_is_missing_or_no_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        list(packed_chunks(tmp_path / "missing"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SandboxError, match="neither a file nor a directory"):
        list(packed_chunks(tmp_path / "pipe"))


def test_a_tree_that_no_path_can_name_is_refused(place: Path) -> None:
    above = os.open(place, os.O_RDONLY)
    for _ in range(2100):
        os.mkdir("d", dir_fd=above)
        inner = os.open("d", os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = inner
    os.close(above)
    try:
        with pytest.raises(SandboxError, match="more than 2048 directories deep"):
            list(packed_chunks(place))
    finally:
        subprocess.run(["rm", "-rf", place / "d"], check=True)


def test_packing_leaves_no_descriptor_open_when_it_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "source" / "d").mkdir(parents=True)
    (tmp_path / "source" / "d" / "f").write_bytes(b"x" * 10_000_000)
    gc.collect()
    before = len(os.listdir("/dev/fd"))
    chunks = packed_chunks(tmp_path / "source")
    next(chunks)
    del chunks
    gc.collect()
    assert len(os.listdir("/dev/fd")) == before


# --- tricks ------------------------------------------------------------------------------------------------------

FILE, LINK, HARD, FOLDER = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE

# Each tries to write "escaped" beside the target. Those of the first list end in an error, the others are defused.
REFUSED: dict[str, list[bytes]] = {
    "dots": [member("../escaped", b"x")],
    "dots behind a name": [member("a/../../escaped", b"x")],
    "dots to a directory": [member("../escaped/", kind=FOLDER)],
    "a link with dots in its own name": [member("../escaped", kind=LINK, link="x")],
    "absolute": [member("/{outside}/escaped", b"x")],
    "absolute with a pax path": [pax({"path": "/{outside}/escaped"}, member("f", b"x"))],
    "dots in a pax path": [pax({"path": "../escaped"}, member("f", b"x"))],
    "through a link that was there before": [member("there/escaped", b"x")],
    "a directory where a link was there before": [member("there/", kind=FOLDER)],
    "through a link to the target itself": [member("l", kind=LINK, link="."), member("l/escaped", b"x")],
    "through a chain of links": [
        member("a", kind=LINK, link="b"),
        member("b", kind=LINK, link="c"),
        member("c/", kind=FOLDER),
        member("a/escaped", b"x"),
    ],
    "a hard link to a file outside": [member("h", kind=HARD, link="../outside/secret")],
    "a hard link to an absolute path": [member("h", kind=HARD, link="/{outside}/secret")],
}
DEFUSED: dict[str, list[bytes]] = {
    "a file through a link to outside": [member("l", kind=LINK, link="../outside"), member("l/escaped", b"x")],
    "a file through an absolute link": [member("l", kind=LINK, link="/{outside}"), member("l/escaped", b"x")],
    "a file over a link to outside": [
        member("d/", kind=FOLDER),
        member("d/l", kind=LINK, link="../../outside/escaped"),
        member("d/l", b"x"),
    ],
    "a link with dots behind a link": [
        member("d", kind=LINK, link="."),
        member("l", kind=LINK, link="d/../outside/secret"),
    ],
    "a hard link to a link to outside": [
        member("l", kind=LINK, link="../outside/secret"),
        member("h", kind=HARD, link="l"),
    ],
    "a device": [member("dev", kind=tarfile.CHRTYPE), member("disk", kind=tarfile.BLKTYPE)],
    "a pipe": [member("pipe", kind=tarfile.FIFOTYPE)],
    "set-user-id": [member("root", b"x", mode=0o6777), member("d/", kind=FOLDER, mode=0o7777)],
}


def realpath_overflow(outside: Path) -> list[bytes]:
    """As in CVE-2025-4517: directory names so long that the real path of the links exceeds PATH_MAX."""
    name, members, steps = "d" * 247, [], ""
    for step in "abcdefghijklmnop":
        members += [member(f"{steps}{name}/", kind=FOLDER), member(f"{steps}{step}", kind=LINK, link=name)]
        steps += f"{name}/"
    through = "/".join("abcdefghijklmnop") + "/" + "l" * 254
    return [
        *members,
        member(through, kind=LINK, link="../" * 16),
        member("escape", kind=LINK, link=f"{through}/../../../../../{outside.name}"),
        member("flag", kind=HARD, link="escape/secret"),
        member("escape/escaped", b"x"),
    ]


class Arena:
    def __init__(self, top: Path) -> None:
        self.target, self.outside = top / "target", top / "outside"
        self.target.mkdir()
        self.outside.mkdir()
        (self.outside / "secret").write_text("secret")
        (self.target / "there").symlink_to(self.outside)
        self._before = {path: path.stat() for path in (self.outside, self.outside / "secret")}

    def filled(self, members: list[bytes]) -> io.BytesIO:
        """An archive of *members*, with the real name of what is outside where they say `{outside}`."""
        filled = []
        for one in members:
            if b"{outside}" not in one[:257]:
                filled.append(one)
                continue
            info = tarfile.TarInfo.frombuf(one[:512], "utf-8", "surrogateescape")
            outside = str(self.outside).lstrip("/")
            info.name, info.linkname = (part.replace("{outside}", outside) for part in (info.name, info.linkname))
            filled.append(info.tobuf(tarfile.GNU_FORMAT) + one[512:])
        return archive(*filled)

    def is_untouched(self) -> bool:
        assert sorted(os.listdir(self.outside)) == ["secret"]
        assert sorted(os.listdir(self.outside.parent)) == ["outside", "target"]
        for path, status in self._before.items():
            now = path.stat()
            assert (now.st_mode, now.st_mtime_ns, now.st_size, now.st_nlink) == (
                status.st_mode,
                status.st_mtime_ns,
                status.st_size,
                status.st_nlink,
            )
        for directory, _, files in os.walk(self.target):
            for name in files:
                path = Path(directory, name)
                if not path.is_symlink():
                    assert path.read_bytes() != b"secret", f"{path} holds the secret"
        return True


@pytest.fixture
def arena(tmp_path: Path) -> Arena:
    return Arena(tmp_path)


@pytest.mark.parametrize("links", ["inside", "all"])
@pytest.mark.parametrize("trick", REFUSED)
def test_a_member_that_leads_out_is_refused_by_its_name(arena: Arena, trick: str, links: str) -> None:
    with pytest.raises(BoxPathError, match=r"in the (archive|target)"):
        unpack(arena.filled(REFUSED[trick]), arena.target, links=links)  # type: ignore[arg-type]
    assert arena.is_untouched()


@pytest.mark.parametrize("trick", DEFUSED)
def test_a_trick_comes_to_nothing(arena: Arena, trick: str) -> None:
    unpack(arena.filled(DEFUSED[trick]), arena.target)
    assert arena.is_untouched()
    for directory, names, files in os.walk(arena.target):
        for name in [*names, *files]:
            path = Path(directory, name)
            status = path.lstat()
            assert status.st_mode & 0o7022 == 0 or stat.S_ISLNK(status.st_mode)
            assert stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode)
            if path.is_symlink() and name != "there":
                assert path.resolve().is_relative_to(arena.target)


@pytest.mark.parametrize("links", ["inside", "all"])
def test_links_whose_real_path_is_too_long_lead_nowhere(arena: Arena, links: str) -> None:
    with pytest.raises(SandboxError):
        unpack(archive(*realpath_overflow(arena.outside)), arena.target, links=links)  # type: ignore[arg-type]
    assert arena.is_untouched()


def test_a_hard_link_through_a_link_takes_nothing_from_outside(arena: Arena) -> None:
    with pytest.raises(BoxPathError, match="'there' in the target is a symbolic link"):
        unpack(archive(member("h", kind=HARD, link="there/secret")), arena.target)
    assert arena.is_untouched()


def test_with_all_links_a_link_to_outside_is_made_and_not_followed(arena: Arena) -> None:
    unpack(
        archive(member("l", kind=LINK, link="/etc/passwd"), member("m", kind=LINK, link="../x")),
        arena.target,
        links="all",
    )
    assert os.readlink(arena.target / "l") == "/etc/passwd"
    assert os.readlink(arena.target / "m") == "../x"


def test_links_that_stay_inside_are_made(arena: Arena) -> None:
    links = {"d/e/up": "../../f", "d/e/top": "../..", "d/beside": "./e/up", "self": ".", "dangling": "nowhere"}
    found = unpack(archive(*(member(name, kind=LINK, link=target) for name, target in links.items())), arena.target)
    assert found.left_out == 0
    assert {name: os.readlink(arena.target / name) for name in links} == links


@pytest.mark.parametrize("target", ["..", "../x", "/x", "d/../../x", "d/e/../..", "../../../x", ""])
def test_links_that_may_lead_out_are_left_out(arena: Arena, target: str) -> None:
    assert unpack(archive(member("l", kind=LINK, link=target)), arena.target).left_out == 1
    assert not os.path.lexists(arena.target / "l")


def test_of_two_members_of_one_name_the_later_one_stays(arena: Arena) -> None:
    unpack(
        archive(member("f", b"1"), member("f", b"2"), member("d", kind=LINK, link="f"), member("d", b"3")), arena.target
    )
    assert ((arena.target / "f").read_bytes(), (arena.target / "d").read_bytes()) == (b"2", b"3")
    assert not (arena.target / "d").is_symlink()


def test_a_file_does_not_replace_a_directory(arena: Arena) -> None:
    with pytest.raises(SandboxError, match=r"cannot unpack 'd': .*directory"):
        unpack(archive(member("d/f", b""), member("d", b"x")), arena.target)


def test_a_hard_link_becomes_a_file_of_its_own(arena: Arena) -> None:
    unpack(
        archive(member("f", b"data", mode=0o750), member("h", kind=HARD, link="f"), member("n", kind=HARD, link="no")),
        arena.target,
    )
    assert (arena.target / "h").read_bytes() == b"data"
    assert mode_of(arena.target / "h") == 0o750
    assert (arena.target / "f").stat().st_nlink == 1
    assert not (arena.target / "n").exists()


# --- damage and bounds -------------------------------------------------------------------------------------------


def test_a_file_that_is_cut_short_does_not_appear(tmp_path: Path) -> None:
    whole = archive(member("first", b"1"), member("cut", b"x" * 100_000)).getvalue()
    with pytest.raises(SandboxError, match=r"ends within 'cut': 60000 bytes of it are missing"):
        unpack(io.BytesIO(whole[: 512 * 3 + 40_000]), tmp_path / "target")
    assert tree(tmp_path / "target") == {"first": b"1"}


def test_a_huge_announced_size_takes_no_memory_and_no_disk(tmp_path: Path) -> None:
    info = tarfile.TarInfo("huge")
    info.size = 2**60
    with pytest.raises(SandboxError, match="ends within 'huge'"):
        unpack(io.BytesIO(info.tobuf(tarfile.GNU_FORMAT) + b"x" * 1000), tmp_path / "target")
    assert tree(tmp_path / "target") == {}


@pytest.mark.parametrize("cut", [0, 100, 1024, 1100])
def test_an_archive_without_its_end_is_not_taken_for_whole(tmp_path: Path, cut: int) -> None:
    whole = member("f", b"x")
    with pytest.raises(SandboxError, match="ends too early"):
        unpack(io.BytesIO(whole[:cut]), tmp_path / "target")


@pytest.mark.parametrize(
    "damage",
    [b"\x1f\x8b" + bytes(1000), b"<html>" * 200, b"x" * 5000, bytes(range(256)) * 8],
    ids=["gzip", "html", "text", "bytes"],
)
def test_what_is_no_tar_is_refused(tmp_path: Path, damage: bytes) -> None:
    with pytest.raises(SandboxError, match="archive"):
        unpack(io.BytesIO(damage), tmp_path / "target")


def rewritten(block: bytes, at: int, field: bytes) -> bytes:
    """The header with another field, and the sum that belongs to it."""
    header = bytearray(block)
    header[at : at + len(field)] = field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header)


@pytest.mark.parametrize("size", [b"\xff" * 12, b"-0000000001\0", b"99999999999\0", b"0x000000010\0", b"1_000000000\0"])
def test_a_size_that_is_no_number_is_refused(tmp_path: Path, size: bytes) -> None:
    with pytest.raises(SandboxError, match="damaged"):
        unpack(archive(rewritten(member("f"), 124, size)), tmp_path / "target")


@pytest.mark.parametrize(
    "records", [b"5 a=b\n", b"99 path=x\n", b"0 a=b\n", b"x", b"-5 a=b\n", b"6 a=bb", b"8 pathx\n"]
)
def test_an_extended_header_that_is_damaged_is_refused(tmp_path: Path, records: bytes) -> None:
    with pytest.raises(SandboxError, match="extended header"):
        unpack(archive(member("pax", records, kind=b"x"), member("f")), tmp_path / "target")


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_names_of_gigabytes_are_not_read_into_memory(tmp_path: Path, kind: bytes) -> None:
    header = rewritten(member("long", kind=kind), 124, b"%011o\0" % 2**32)

    class Endless:
        def __init__(self) -> None:
            self.served = 0

        def read(self, size: int, /) -> bytes:
            if not self.served:
                self.served = len(header)
                return header
            self.served += size
            return bytes(size)

    stream = Endless()
    with pytest.raises(SandboxError, match="announces 4294967296 bytes of names"):
        unpack(stream, tmp_path / "target")
    assert stream.served < 10_000


@pytest.mark.parametrize("key", ["size", "path"])
def test_pax_records_with_nonsense_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(SandboxError):
        unpack(archive(pax({key: "-1\0"}, member("f", b"x"))), tmp_path / "target")


@pytest.mark.parametrize("mtime", ["nan", "inf", "-1", "1e300", "x"])
def test_a_time_that_is_nonsense_loses_no_file(tmp_path: Path, mtime: str) -> None:
    unpack(archive(pax({"mtime": mtime}, member("f", b"x"))), tmp_path / "target")
    assert (tmp_path / "target" / "f").stat().st_mtime == 0


def test_a_sparse_file_is_refused_by_its_name(tmp_path: Path) -> None:
    sparse = tmp_path / "hollow"
    sparse.touch()
    os.truncate(sparse, 10_000_000)
    for form in ("gnu", "pax"):
        data = packed_by_tar("--sparse", f"--format={form}", "-C", tmp_path, "hollow")
        with pytest.raises(SandboxError, match=r"hollow.* is stored as a sparse file"):
            unpack(io.BytesIO(data), tmp_path / "target")


def test_more_members_than_allowed_are_refused(tmp_path: Path) -> None:
    stream = archive(*(member(f"f{n}") for n in range(20)))
    with pytest.raises(SandboxError, match="more than the 10 members allowed"):
        unpack(stream, tmp_path / "target", limits=Limits(members=10))


def test_more_bytes_than_allowed_are_refused_and_so_are_copies_of_them(tmp_path: Path) -> None:
    large = member("f", bytes(1_000_000))
    with pytest.raises(SandboxError, match="larger than the 500000 bytes allowed"):
        unpack(archive(large), tmp_path / "one", limits=Limits(size_bytes=500_000))
    copies = [member(f"h{n}", kind=HARD, link="f") for n in range(100)]
    with pytest.raises(SandboxError, match="larger than the 5000000 bytes allowed"):
        unpack(archive(large, *copies), tmp_path / "two", limits=Limits(size_bytes=5_000_000))
    assert sum(path.stat().st_size for path in (tmp_path / "two").iterdir()) <= 5_000_000


def test_an_archive_that_never_ends_is_given_up(tmp_path: Path) -> None:
    class Zeros:
        def read(self, size: int, /) -> bytes:
            return bytes(size)

    with pytest.raises(SandboxError, match="follow the end of the archive"):
        unpack(Zeros(), tmp_path / "target")


def test_a_full_disk_says_which_file(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(SandboxError, match="cannot unpack 'large': File too large"):
            unpack(archive(member("large", bytes(1_000_000))), tmp_path / "target")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert tree(tmp_path / "target") == {}


@pytest.mark.parametrize("cut", range(0, 4096, 173))
def test_damage_anywhere_ends_in_an_error_and_never_outside(arena: Arena, cut: int) -> None:
    whole = bytearray(
        archive(
            member("a/b", b"1" * 700), pax({"path": "c"}, member("x", b"2")), member("l", kind=LINK, link="a")
        ).getvalue()
    )
    whole[cut % len(whole)] ^= 0x5A
    try:
        unpack(io.BytesIO(whole), arena.target)
    except SandboxError:
        pass
    assert arena.is_untouched()


# --- somebody in the way -----------------------------------------------------------------------------------------


def swap(one: Path, other: Path) -> None:
    """Exchange two names as fast as the system can without renameat2."""
    try:
        os.rename(one, one.with_name("aside"))
        os.rename(other, one)
        os.rename(one.with_name("aside"), other)
    except OSError as exc:
        if exc.errno not in (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR):
            raise


@pytest.mark.parametrize("links", ["inside", "all"])
def test_a_directory_that_is_swapped_for_a_link_while_we_write_leads_nowhere(arena: Arena, links: str) -> None:
    (arena.target / "d").mkdir()
    (arena.target / "e").symlink_to(arena.outside)
    members = [member(f"d/{'s' * (n % 3)}{n}/f" if n % 2 else f"d/f{n}", b"x") for n in range(20)]
    data = archive(*members).getvalue()
    done = threading.Event()

    def attack() -> None:
        while not done.is_set():
            swap(arena.target / "d", arena.target / "e")

    attacker = threading.Thread(target=attack)
    attacker.start()
    outcomes: set[str] = set()
    try:
        for _ in range(100):
            try:
                unpack(io.BytesIO(data), arena.target, links=links)  # type: ignore[arg-type]
                outcomes.add("written")
            except SandboxError as exc:
                outcomes.add(type(exc).__name__)
    finally:
        done.set()
        attacker.join()
    assert arena.is_untouched()
    assert outcomes


# --- one file ----------------------------------------------------------------------------------------------------


def test_a_file_that_is_written_whole_replaces_a_link_and_does_not_follow_it(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("kept")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").symlink_to(tmp_path / "outside")
    fd = os.open(tmp_path / "d", os.O_RDONLY)
    try:
        assert write_whole(fd, b"f", [b"a", b"b"], mode=0o640) == 2
    finally:
        os.close(fd)
    assert (tmp_path / "outside").read_text() == "kept"
    assert (tree(tmp_path / "d"), mode_of(tmp_path / "d" / "f")) == ({"f": b"ab"}, 0o640)


def test_a_file_whose_source_fails_does_not_appear(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"a"
        raise ConnectionError

    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(ConnectionError):
            write_whole(fd, b"f", chunks(), mode=None)
    finally:
        os.close(fd)
    assert tree(tmp_path) == {}


# --- on an event loop --------------------------------------------------------------------------------------------


async def in_pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        await asyncio.sleep(0)
        yield data[at : at + size]


async def test_a_stream_crosses_the_event_loop_both_ways(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    (source / "d" / "f").write_bytes(bytes(range(256)) * 20_000)
    limiter = anyio.CapacityLimiter(1)
    data = b"".join([chunk async for chunk in packed(source, limiter=limiter)])
    found = await unpack_chunks(in_pieces(data, 100_001), tmp_path / "target", limiter=limiter)
    assert (found.files, tree(tmp_path / "target")) == (1, tree(source))


async def test_the_producer_waits_while_the_thread_is_behind(tmp_path: Path) -> None:
    limiter = anyio.CapacityLimiter(1)
    taken = 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal taken
        async for chunk in in_pieces(archive(member("f", bytes(1_000_000))).getvalue(), 1000):
            taken += 1
            yield chunk

    await limiter.acquire_on_behalf_of("busy")
    task = asyncio.create_task(unpack_chunks(counted(), tmp_path / "target", limiter=limiter))
    for _ in range(1000):
        await asyncio.sleep(0)
    assert 0 < taken < 30
    limiter.release_on_behalf_of("busy")
    assert (await task).files == 1


async def test_a_stream_that_fails_raises_what_it_failed_with(tmp_path: Path) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield member("f", bytes(10_000))[:5000]
        raise ConnectionError("the other side is gone")

    with pytest.raises(ConnectionError, match="the other side is gone"):
        await unpack_chunks(failing(), tmp_path / "target", limiter=anyio.CapacityLimiter(1))
    assert tree(tmp_path / "target") == {}


@pytest.mark.parametrize("silent", [True, False])
async def test_a_refused_archive_ends_the_stream_that_it_came_by(tmp_path: Path, silent: bool) -> None:
    closed = False

    async def hostile() -> AsyncGenerator[bytes, None]:
        nonlocal closed
        try:
            yield member("../f", b"x")
            while True:
                await asyncio.sleep(3600 if silent else 0)
                yield bytes(100_000)
        finally:
            closed = True

    async with aclosing(hostile()) as chunks:
        with pytest.raises(BoxPathError):
            await unpack_chunks(chunks, tmp_path / "target", limiter=anyio.CapacityLimiter(1))
    assert closed


@pytest.mark.parametrize("cancel", ["task", "scope"])
async def test_cancelling_ends_the_thread_and_leaves_no_part_of_a_file(tmp_path: Path, cancel: str) -> None:
    limiter = anyio.CapacityLimiter(1)
    started = asyncio.Event()

    async def hanging() -> AsyncIterator[bytes]:
        yield member("whole", b"1") + member("part", bytes(10_000))[:5000]
        started.set()
        await asyncio.sleep(3600)

    async def scoped(stop: Callable[[], bool]) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: unpack_chunks(hanging(), tmp_path / "target", limiter=limiter))
            await started.wait()
            assert stop()
            group.cancel_scope.cancel()

    if cancel == "scope":
        await scoped(lambda: True)
    else:
        task = asyncio.create_task(unpack_chunks(hanging(), tmp_path / "target", limiter=limiter))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert limiter.borrowed_tokens == 0
    assert set(tree(tmp_path / "target")) <= {"whole"}
