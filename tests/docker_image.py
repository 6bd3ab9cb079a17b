"""Which images do the tests of Docker boxes use? Two of this machine's own programs: no registry is asked.

`tools_image` has bash, coreutils, git, python3, tar and what else a box's commands use, each with the shared libraries
that it needs; `busybox_image` has busybox and nothing else. Both are named by what went into them, so each is built
once for an engine, whoever comes first; a lock file keeps the workers of a test run from building it twice at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import docker
import docker.errors

# Raise it when the way of building changes.
VERSION = "1"

PROGRAMS = """
    awk base64 basename bash cat chmod chown cmp cp cut date dd df diff dirname du env expr false
    find git grep gzip head hostname id install kill ln ls md5sum mkdir mkfifo mknod mktemp mount mv
    nice nl nohup od paste perl printenv printf prlimit ps pwd readlink realpath rm rmdir sed seq
    setsid sh sha256sum sleep sort split stat stdbuf stty sync tail tar tee test timeout touch tr
    true truncate tty uname uniq unshare wc which whoami xargs yes
""".split()  # noqa: SIM905  # a hundred names read better without their quotes

# Loaded by name at run time, so that no listing of what a program is linked to shows them.
LOADED_LATER = ("libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2", "libgcc_s.so.1")

# What agent programs are linked to, whose own listings this image does not see. Of glibc before 2.34 only by name.
FOR_AGENTS = ("librt.so.1", "libpthread.so.0", "libdl.so.2", "libm.so.6", "libutil.so.1", "libstdc++.so.6")

WHERE = os.pathsep.join(("/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"))

# Of Python's library: what no test needs, and is large.
LEFT_OUT = {
    "__pycache__",
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "site-packages",
    "dist-packages",
}

PASSWD = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
GROUP = "root:x:0:\nnogroup:x:65534:\n"
NAME_SERVICE = "passwd: files\ngroup: files\nhosts: files dns\n"


def engine_answers() -> bool:
    """Whether there is a Docker engine to test with."""
    url = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    # The docker package leaves a socket open that it could not connect, which is an error in a test run.
    if url.startswith("unix://") and not _connects(url.removeprefix("unix://")):
        return False
    try:
        with _client() as client:
            return bool(client.ping())
    except (docker.errors.DockerException, OSError):
        return False


def _connects(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(10)
        return probe.connect_ex(path) == 0


def tools_image() -> str:
    """The name of an image with the usual tools, which is there on return."""
    return _tools_image(os.environ.get("DOCKER_HOST", ""))


def busybox_image() -> str:
    """The name of an image with busybox alone, which is there on return."""
    return _busybox_image(os.environ.get("DOCKER_HOST", ""))


# Looking costs a second or two: once for each engine.
@cache
def _tools_image(_engine: str) -> str:
    files = _closure(_tools())
    return _once("boxflow-test/tools", files, lambda tar: _add_tools(tar, files))


@cache
def _busybox_image(_engine: str) -> str:
    busybox = shutil.which("busybox", path=WHERE)
    assert busybox is not None, "the tests of Docker boxes need Debian's busybox-static"
    linked = subprocess.run(["ldd", busybox], capture_output=True, text=True, check=False)
    assert linked.returncode != 0, f"{busybox} must be the static one: install busybox-static"
    return _once("boxflow-test/busybox", {Path(busybox)}, lambda tar: _add_busybox(tar, busybox))


# --- what goes in ------------------------------------------------------------------------------------------------


def _tools() -> Iterator[Path]:
    for name in PROGRAMS:
        found = shutil.which(name, path=WHERE)
        assert found is not None or name in ("stdbuf", "prlimit"), f"the tests of Docker boxes need {name!r}"
        if found is not None:
            yield Path(found)
    git_core = Path(subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True).stdout.strip())
    yield from _below(git_core)
    yield from _below(Path("/usr/share/git-core/templates"))
    yield from _python()
    for directory in (Path("/lib"), Path("/usr/lib"), *Path("/usr/lib").glob("*-linux-gnu")):
        yield from (path for name in LOADED_LATER + FOR_AGENTS if (path := directory / name).exists())
    # Perl's own library, as far as one-liners need it.
    for base in (*Path("/usr/lib").glob("*-linux-gnu/perl-base"), Path("/usr/share/perl-base")):
        yield from _below(base)
    yield from _below(Path("/usr/share/terminfo/x"))
    yield from _below(Path("/lib/terminfo/x"))


def _python() -> Iterator[Path]:
    """Any Python 3 with its library: the system's, else the one that runs this."""
    for program in ("/usr/bin/python3", os.path.join(sys.base_prefix, "bin", "python3")):
        if os.path.exists(program):
            break
    else:
        raise AssertionError("the tests of Docker boxes need a python3")
    ask = "import sys, sysconfig as s; print(sys.executable, s.get_path('stdlib'), s.get_path('platstdlib'), sep='\\n')"
    told = subprocess.run([program, "-I", "-c", ask], capture_output=True, text=True, check=True).stdout.split()
    yield Path(program)
    yield Path(told[0])
    for library in dict.fromkeys(told[1:]):
        yield from _below(Path(library))


def _below(top: Path) -> Iterator[Path]:
    for directory, names, files in os.walk(top):
        names[:] = sorted(name for name in names if name not in LEFT_OUT)
        yield from (Path(directory, name) for name in files)


def _closure(paths: Iterable[Path]) -> set[Path]:
    """*paths* with what links lead to, the libraries that programs are linked to, and the interpreters of scripts."""
    waiting, found = list(paths), set[Path]()
    programs: list[Path] = []
    while waiting or programs:
        if not waiting:
            waiting, programs = _libraries(programs), []
            continue
        path = waiting.pop()
        if path in found or not os.path.lexists(path):
            continue
        found.add(path)
        if path.is_symlink():
            waiting.append(Path(os.path.normpath(path.parent / os.readlink(path))))
        elif path.is_file() and _is_program(path):
            programs.append(path)
    return found


def _is_program(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _libraries(programs: list[Path]) -> list[Path]:
    """One call for all of them: each `ldd` starts a shell and a loader."""
    told = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False).stdout
    # A line of several programs ends in a colon: those are names, not libraries.
    lines = [line for line in told.splitlines() if not line.endswith(":")]
    return [Path(path) for path in dict.fromkeys(re.findall(r"(/[^\s()]+)", "\n".join(lines)))]


def _add_tools(tar: tarfile.TarFile, files: set[Path]) -> None:
    _add_frame(tar)
    for name in ("bin", "sbin", "lib", "lib64"):
        # As on Debian. What is found in /bin goes to /usr/bin.
        _add_link(tar, name, f"usr/{name}")
    done: set[str] = set()
    for path in sorted(files):
        inside = str(path).lstrip("/")
        if inside.split("/", 1)[0] in ("bin", "sbin", "lib", "lib64"):
            inside = f"usr/{inside}"
        if inside in done:
            continue
        done.add(inside)
        member = tar.gettarinfo(path, arcname=inside)
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        if member.isreg() or member.islnk():
            member.type, member.linkname, member.size = tarfile.REGTYPE, "", path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(member, file)
        elif member.issym():
            tar.addfile(member)


def _add_busybox(tar: tarfile.TarFile, busybox: str) -> None:
    _add_frame(tar)
    _add_directory(tar, "bin", 0o755)
    _add_directory(tar, "sbin", 0o755)
    member = tarfile.TarInfo("bin/busybox")
    member.mode, member.size = 0o755, os.path.getsize(busybox)
    with open(busybox, "rb") as file:
        tar.addfile(member, file)
    names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        if name != "busybox":
            _add_link(tar, f"bin/{name}", "busybox")


def _add_frame(tar: tarfile.TarFile) -> None:
    for name in (
        "dev",
        "etc",
        "home",
        "proc",
        "root",
        "run",
        "sys",
        "usr",
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "var",
    ):
        _add_directory(tar, name, 0o755)
    _add_directory(tar, "tmp", 0o1777)
    for name, text in (
        ("etc/passwd", PASSWD),
        ("etc/group", GROUP),
        ("etc/nsswitch.conf", NAME_SERVICE),
        ("etc/hosts", "127.0.0.1 localhost\n"),
    ):
        member = tarfile.TarInfo(name)
        member.mode, member.size = 0o644, len(text)
        tar.addfile(member, io.BytesIO(text.encode()))


def _add_directory(tar: tarfile.TarFile, name: str, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.mode = tarfile.DIRTYPE, mode
    tar.addfile(member)


def _add_link(tar: tarfile.TarFile, name: str, target: str) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    tar.addfile(member)


# --- once ------------------------------------------------------------------------------------------------------------


def _once(repository: str, files: set[Path], fill: Any) -> str:
    tag = _fingerprint(files)
    name = f"{repository}:{tag}"
    with _client() as client, _locked(name):
        try:
            client.inspect_image(name)
        except docker.errors.ImageNotFound:
            with tempfile.TemporaryFile() as file:
                with tarfile.open(fileobj=file, mode="w") as tar:
                    fill(tar)
                file.seek(0)
                told = client.import_image_from_data(file, repository=repository, tag=tag)
            assert "error" not in told, told
    return name


def _fingerprint(files: set[Path]) -> str:
    seen = hashlib.sha256(VERSION.encode())
    for path in sorted(files):
        status = path.lstat()
        seen.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    return seen.hexdigest()[:16]


@contextmanager
def _locked(name: str) -> Iterator[None]:
    key = hashlib.sha256(name.encode()).hexdigest()[:16]
    with open(Path(tempfile.gettempdir(), f"boxflow-image-{key}.lock"), "w") as file:
        # Released with the file, also when its holder is killed.
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _client() -> Iterator[docker.APIClient]:
    settings = docker.utils.kwargs_from_env()
    client = docker.APIClient(**settings, version="auto", timeout=120)
    try:
        yield client
    finally:
        client.close()


if __name__ == "__main__":
    # For whoever needs an image to measure with: its name, or nothing and status 1.
    if not engine_answers():
        sys.exit(1)
    print(tools_image())
