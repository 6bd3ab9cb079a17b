"""How do installed agent programs get into an image that boxes are made from? By a build that needs no network."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import IO, Final

import anyio
import anyio.to_thread

from boxflow.agent_programs.catalogue import program_of
from boxflow.agent_programs.docker_engine import connect, engine_address
from boxflow.agent_programs.installing import find
from boxflow.boxes.agent_places import default_directory
from boxflow.errors import ConfigurationError, ImageNotFoundError, SandboxUnavailableError

_HOME: Final = "opt/boxflow/agents"
_LINKS: Final = "usr/local/bin"
_CHUNK_BYTES: Final = 1024 * 1024


def dockerfile(*names: str, base: str = "node:22-slim") -> str:
    """The text of a Dockerfile that installs the agent programs *names* with npm, for `boxes.create(dockerfile=...)`.

    Building it needs npm's registry; `build_image` needs no network.

    :param base: an image with Node.js
    :raises ConfigurationError: there is no such program
    """
    sources = [program_of(name).source("npm") for name in names]
    packages = " ".join(f"{one.package}@{one.version}" for one in sources)
    return f"FROM {base}\nRUN npm install --global --no-audit --no-fund {packages} && npm cache clean --force\n"


async def build_image(
    *names: str,
    base: str,
    tag: str,
    directory: str | Path | None = None,
    address: str | None = None,
    timeout_s: float = 600.0,
) -> str:
    """Build an image of *base* with the agent programs *names* on its PATH, from where they are installed here.

    Boxes are then made with `boxes.create(image=tag)`. The programs are at most as large as on this machine, which must
    be of the image's kind (processor, C library).

    :param directory: where the programs were installed; `default_directory()` when None
    :param address: of Docker's engine, as in `DOCKER_HOST`, which is the default
    :returns: *tag*
    :raises ConfigurationError: one of the programs is not installed there
    :raises ImageNotFoundError: the build failed
    :raises SandboxUnavailableError: the engine does not answer
    """
    import httpx

    threads = anyio.CapacityLimiter(1)
    where = address or engine_address()
    with tempfile.TemporaryFile(prefix="boxflow-image-") as context:
        await anyio.to_thread.run_sync(_write, context, names, base, directory, limiter=threads)
        context.seek(0)
        parameters = {"t": tag, "rm": "1", "forcerm": "1"}
        try:
            with anyio.fail_after(timeout_s):
                async with connect(where, timeout_s=timeout_s) as engine:
                    headers = {"content-type": "application/x-tar"}
                    body = _chunks(context, threads)
                    answer = await engine.post("/build", params=parameters, headers=headers, content=body)
        except (httpx.TransportError, TimeoutError) as exc:
            raise SandboxUnavailableError(f"Docker's engine at {where!r} does not answer: {exc!r}") from exc
    _check(answer.status_code, answer.text, tag)
    return tag


def write_build_context(target: str | Path, *names: str, base: str, directory: str | Path | None = None) -> None:
    """Write what `build_image` builds from to the file *target*: a tar archive, for `docker build - < target`.

    Blocks: it copies some hundred megabytes.

    :raises ConfigurationError: one of the programs is not installed in *directory*
    """
    with Path(target).open("wb") as file:
        _write(file, names, base, directory)


def _write(file: IO[bytes], names: Sequence[str], base: str, directory: str | Path | None) -> None:
    where = Path(directory or default_directory())
    with tarfile.open(fileobj=file, mode="w") as archive:
        text = f"FROM {base}\nCOPY root/ /\n".encode()
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
        for name in names:
            _add_program(archive, name, where)


def _add_program(archive: tarfile.TarFile, name: str, where: Path) -> None:
    link = find(name, where)
    if link is None:
        raise ConfigurationError(f"{name!r} is not installed in {str(where)!r}; install it there first")
    binary = link.resolve()
    home = where.resolve() / binary.relative_to(where.resolve()).parts[0]
    archive.add(home, f"root/{_HOME}/{home.name}", filter=_of_root)
    entry = tarfile.TarInfo(f"root/{_LINKS}/{program_of(name).program}")
    entry.type = tarfile.SYMTYPE
    entry.linkname = f"/{_HOME}/{home.name}/{binary.relative_to(home)}"
    archive.addfile(entry)


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    # The box's user reads and runs it, and changes nothing.
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry


async def _chunks(file: IO[bytes], threads: anyio.CapacityLimiter) -> AsyncIterator[bytes]:
    while chunk := await anyio.to_thread.run_sync(file.read, _CHUNK_BYTES, limiter=threads):
        yield chunk


def _check(status: int, answer: str, tag: str) -> None:
    """The engine answers 200 to builds that fail, and says so in the last of many lines of JSON."""
    if status != 200:
        raise ImageNotFoundError(f"image {tag!r} cannot be built: {answer[-500:].strip()}")
    for line in answer.splitlines():
        told = json.loads(line)
        if "error" in told:
            raise ImageNotFoundError(f"image {tag!r} cannot be built: {told['error']}")
