"""What does a box cost, beside the raw call that does the same?

- `exec`: one command after another in one box, from the call to its result; beside `asyncio.create_subprocess_exec`
  with `communicate`, and beside the Docker API called by the `docker` package (create exec, start it, read, inspect).
- `create`: a new box until the first output of its first command; deleting is not counted. Beside a new directory and a
  subprocess, and beside create, start and exec of a container of the same image with nothing hardened.
- `crowd`: 50 boxes at once, 20 commands in each, one after another in a box; beside eight threads that call the Docker
  API.
- `up`, `down`: one file into a box and out of it; beside a copy on the same disk, and beside the archive calls of the
  Docker API. `peak_bytes` is how much the process grew at most meanwhile: flat memory, whatever the size.
- `step`: the same command as a step of a workflow, which makes it a durable job.

Docker is measured where `BOXFLOW_BENCH_IMAGE` names an image of the engine that `DOCKER_HOST` names; `scripts/bench`
sets it where it can. Not measured: pulling or building images, networks, large outputs.
"""

from __future__ import annotations

import asyncio
import io
import os
import resource
import shutil
import tarfile
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measuring import Stopwatch, quantiles_ms, run
from benchmarks.model import Program, Sample, Subject, Target, counts
from boxflow import Boxes, Context, Engine, workflow

IMAGE = os.environ.get("BOXFLOW_BENCH_IMAGE", "")
COMMAND = ["printf", "x\\n"]
BOXES, EXECS = 50, 20
CHUNK = 1024 * 1024


def sandbox_url(kind: str, directory: Path) -> str:
    return f"docker:{IMAGE}" if kind == "docker" else f"local:{directory / 'boxes'}"


def peak_bytes() -> int:
    """The most memory this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def timed(operations: int, once: Callable[[], Awaitable[object]]) -> Sample:
    """Each operation by itself, after a few to warm up."""
    for _ in range(min(3, operations)):
        await once()
    latencies: list[float] = []
    with Stopwatch() as watch:
        for _ in range(operations):
            begun = time.perf_counter()
            await once()
            latencies.append(time.perf_counter() - begun)
    return watch.sample(operations, **quantiles_ms(latencies))


# --- boxflow -------------------------------------------------------------------------------------------------------


def exec_in_box(kind: str, operations: int, directory: Path) -> Sample:
    async def main() -> Sample:
        async with Boxes(sandbox_url(kind, directory)) as boxes, boxes.create() as box:
            return await timed(operations, lambda: box.exec.command(COMMAND, check=True))

    return run(main())


def create_box(kind: str, operations: int, directory: Path) -> Sample:
    async def main() -> Sample:
        async with Boxes(sandbox_url(kind, directory)) as boxes:
            latencies: list[float] = []
            with Stopwatch() as watch:
                for _ in range(operations):
                    begun = time.perf_counter()
                    box = await boxes.create()
                    await box.exec.command(COMMAND, check=True)
                    latencies.append(time.perf_counter() - begun)
                    await box.delete()
            return watch.sample(operations, **quantiles_ms(latencies))

    return run(main())


def crowd_of_boxes(kind: str, operations: int, directory: Path) -> Sample:
    async def main() -> Sample:
        boxes_at_once = max(1, operations // EXECS)
        async with Boxes(sandbox_url(kind, directory)) as boxes:
            crowd = await asyncio.gather(*(boxes.create() for _ in range(boxes_at_once)))

            async def work(number: int) -> None:
                for _ in range(EXECS):
                    await crowd[number].exec.command(COMMAND, check=True)

            with Stopwatch() as watch:
                await asyncio.gather(*map(work, range(boxes_at_once)))
            await asyncio.gather(*(box.delete() for box in crowd))
            return watch.sample(boxes_at_once * EXECS)

    return run(main())


def transfer(kind: str, up: bool, operations: int, directory: Path) -> Sample:
    """*operations* is the size in MiB."""
    source = make_file(directory / "source", operations)

    async def main() -> Sample:
        async with Boxes(sandbox_url(kind, directory)) as boxes, boxes.create() as box:
            await box.files.upload(__file__, "warm-up")
            if not up:
                await box.files.upload(source, "file")
            before = peak_bytes()
            with Stopwatch() as watch:
                if up:
                    await box.files.upload(source, "file")
                else:
                    await box.files.download("file", directory / "target")
            grown = peak_bytes() - before
            assert (await box.files.stat("file")).size_bytes == operations * CHUNK
            return watch.sample(operations, peak_bytes=grown)

    return run(main())


async def many(ctx: Context, operations: int) -> None:
    async with ctx.box("bench") as box:
        for _ in range(operations):
            await box.exec.command(COMMAND, check=True)


def exec_in_body(kind: str, operations: int, directory: Path) -> Sample:
    flow = workflow(many)

    async def main() -> Sample:
        async with Engine([flow], sandbox=sandbox_url(kind, directory)) as engine:
            with Stopwatch() as watch:
                await engine.run(flow, operations)
            return watch.sample(operations)

    return run(main())


# --- the raw calls -------------------------------------------------------------------------------------------------


async def subprocess_once(directory: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, cwd=directory, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert (process.returncode, out) == (0, b"x\n")


def raw_exec_local(operations: int, directory: Path) -> Sample:
    return run(timed(operations, lambda: subprocess_once(directory)))


def raw_create_local(operations: int, directory: Path) -> Sample:
    numbers = iter(range(10**9))

    async def once() -> None:
        place = directory / str(next(numbers))
        place.mkdir()
        await subprocess_once(place)

    return run(timed(operations, once))


def raw_crowd_local(operations: int, directory: Path) -> Sample:
    async def work() -> None:
        for _ in range(EXECS):
            await subprocess_once(directory)

    async def main() -> Sample:
        at_once = max(1, operations // EXECS)
        with Stopwatch() as watch:
            await asyncio.gather(*(work() for _ in range(at_once)))
        return watch.sample(at_once * EXECS)

    return run(main())


def raw_transfer_local(operations: int, directory: Path) -> Sample:
    source = make_file(directory / "source", operations)
    before = peak_bytes()
    with Stopwatch() as watch:
        shutil.copyfile(source, directory / "target")
    return watch.sample(operations, peak_bytes=peak_bytes() - before)


def docker_api() -> Any:
    import docker

    return docker.from_env(timeout=120, max_pool_size=64).api


def raw_start(api: Any) -> str:
    container = api.create_container(
        IMAGE,
        ["sleep", "600"],
        environment={"PATH": "/usr/local/bin:/usr/bin:/bin"},
        host_config=api.create_host_config(network_mode="none", init=True),
    )["Id"]
    api.start(container)
    return str(container)


@contextmanager
def raw_container(api: Any) -> Iterator[str]:
    container = raw_start(api)
    try:
        yield container
    finally:
        api.remove_container(container, force=True)


def docker_exec_once(api: Any, container: str) -> None:
    made = api.exec_create(container, COMMAND)["Id"]
    out, _ = api.exec_start(made, demux=True)
    assert out == b"x\n"
    assert api.exec_inspect(made)["ExitCode"] == 0


async def at_once(fn: Callable[[], object]) -> None:
    fn()


def raw_exec_docker(operations: int, directory: Path) -> Sample:
    api = docker_api()
    with raw_container(api) as container:
        return run(timed(operations, lambda: at_once(partial(docker_exec_once, api, container))))


def raw_create_docker(operations: int, directory: Path) -> Sample:
    api = docker_api()
    latencies: list[float] = []
    with Stopwatch() as watch:
        for _ in range(operations):
            begun = time.perf_counter()
            container = raw_start(api)
            docker_exec_once(api, container)
            latencies.append(time.perf_counter() - begun)
            api.remove_container(container, force=True)
    return watch.sample(operations, **quantiles_ms(latencies))


def raw_crowd_docker(operations: int, directory: Path) -> Sample:
    api = docker_api()
    with ThreadPoolExecutor(8) as threads:
        containers = list(threads.map(lambda _: raw_start(api), range(max(1, operations // EXECS))))

        def work(container: str) -> None:
            for _ in range(EXECS):
                docker_exec_once(api, container)

        with Stopwatch() as watch:
            list(threads.map(work, containers))
        list(threads.map(lambda one: api.remove_container(one, force=True), containers))
    return watch.sample(len(containers) * EXECS)


def raw_transfer_docker(up: bool, operations: int, directory: Path) -> Sample:
    api = docker_api()
    make_file(directory / "source", operations)
    packed = directory / "source.tar"
    with tarfile.open(packed, "w") as tar:
        tar.add(directory / "source", "file")
    with raw_container(api) as container:
        if not up:
            with packed.open("rb") as data:
                api.put_archive(container, "/tmp", data)
        before = peak_bytes()
        with Stopwatch() as watch:
            if up:
                with packed.open("rb") as data:
                    api.put_archive(container, "/tmp", data)
            else:
                chunks, _ = api.get_archive(container, "/tmp/file", chunk_size=CHUNK)
                with (directory / "target.tar").open("wb") as out:
                    for chunk in chunks:
                        out.write(chunk)
    return watch.sample(operations, peak_bytes=peak_bytes() - before)


def make_file(path: Path, mebibytes: int) -> Path:
    block = io.BytesIO(os.urandom(CHUNK)).getvalue()
    with path.open("wb") as file:
        for _ in range(mebibytes):
            file.write(block)
    return path


# --- the table -----------------------------------------------------------------------------------------------------

MEBIBYTES = counts(tiny=2, quick=100, normal=100)
_SECONDS = ("p50_ms", "p99_ms", "per_s", "cpu_us")
_RATES = ("per_s", "cpu_us")
_SIZES = ("per_s", "peak_bytes")


def subjects_of(kind: str) -> Iterator[Subject]:
    """The subjects for one sandbox, each raw call right before what it is a floor of."""
    local = kind == "local"
    raw = "subprocess" if local else "Docker API"
    few = counts(tiny=2, quick=200, normal=500) if local else counts(tiny=2, quick=40, normal=100)
    new = counts(tiny=2, quick=100, normal=200) if local else counts(tiny=1, quick=10, normal=20)
    crowd = counts(tiny=EXECS, quick=BOXES * EXECS, normal=BOXES * EXECS)
    measures: tuple[tuple[str, str, Any, Any, dict[Any, int], tuple[str, ...]], ...] = (
        ("exec", "a command", raw_exec_local if local else raw_exec_docker, exec_in_box, few, _SECONDS),
        (
            "create",
            "create to first output",
            raw_create_local if local else raw_create_docker,
            create_box,
            new,
            _SECONDS,
        ),
        (
            "crowd",
            "50 boxes x 20 commands",
            raw_crowd_local if local else raw_crowd_docker,
            crowd_of_boxes,
            crowd,
            _RATES,
        ),
    )
    for name, what, floor, ours, operations, shown in measures:
        yield Subject(
            name=f"{kind}_{name}_raw", what=f"{kind}: {what}, {raw}", measure=floor, operations=operations, shown=shown
        )
        yield Subject(
            name=f"{kind}_{name}", what=f"{kind}: {what}", measure=partial(ours, kind), operations=operations,
            shown=shown,
        )  # fmt: skip
    yield Subject(
        name=f"{kind}_step", what=f"{kind}: a command as a step of a workflow", measure=partial(exec_in_body, kind),
        operations=few, shown=_RATES,
    )  # fmt: skip
    for up in (True, False):
        way = "up" if up else "down"
        floor = raw_transfer_local if local else partial(raw_transfer_docker, up)
        yield Subject(
            name=f"{kind}_{way}_raw", what=f"{kind}: MiB {way}, {'copyfile' if local else raw}", measure=floor,
            operations=MEBIBYTES, shown=_SIZES,
        )  # fmt: skip
        yield Subject(
            name=f"{kind}_{way}", what=f"{kind}: MiB {way}", measure=partial(transfer, kind, up), operations=MEBIBYTES,
            shown=_SIZES,
        )  # fmt: skip


def targets_of(kind: str) -> Iterator[Target]:
    yield Target(
        promise=f"a command in a box <= 1.3x the raw call ({kind}; ours, not of §9)", subject=f"{kind}_exec",
        measure="p50_ms", limit=1.3, at_least=False, over=f"{kind}_exec_raw",
    )  # fmt: skip
    for way in ("up", "down"):
        yield Target(
            promise=f"100 MiB {way} in flat memory: <= 16 MiB ({kind}; ours)", subject=f"{kind}_{way}",
            measure="peak_bytes", limit=16 * CHUNK, at_least=False,
        )  # fmt: skip


KINDS = ("local", "docker") if IMAGE else ("local",)

PROGRAM = Program(
    name="boxes",
    question="What does a box cost, beside the raw call that does the same?",
    subjects=tuple(subject for kind in KINDS for subject in subjects_of(kind)),
    targets=tuple(target for kind in KINDS for target in targets_of(kind)),
)
