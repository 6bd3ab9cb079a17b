"""How is one sample of a peer taken? A fresh server, a fresh driver in the peer's environment, one line of JSON."""

from __future__ import annotations

import os
import queue
import statistics
import threading
from pathlib import Path
from typing import IO

import attrs
import msgspec

from benchmarks.model import Sample
from benchmarks.peers.errors import PeerUnavailableError
from benchmarks.peers.installing import PACKAGES, python_of
from benchmarks.peers.servers import Server, free_port, kept, last_line, serving
from benchmarks.peers.variants import Variant
from benchmarks.rounds import ROOT

SECONDS = "BOXFLOW_BENCH_SECONDS"
"""The environment variable with the soft limit of each sample of a peer, in seconds."""

PATIENCE_S = 90.0
"""How long a driver may take beyond that; longer than the workloads' own patience, for a start on a busy machine."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A driver's line."""

    operations: int = 0
    values: dict[str, float] = {}
    error: str = ""


@attrs.frozen(kw_only=True)
class Task:
    """What one sample takes: a workload, at most so many operations, so many at once."""

    variant: Variant
    workload: str
    count: int
    concurrency: int


def measure(variant: Variant, workload: str, concurrency: int, count: int, directory: Path) -> Sample:
    """One sample; with its `error` where the peer cannot be measured."""
    task = Task(variant=variant, workload=workload, count=count, concurrency=concurrency)
    take = {"recovery": _recovery, "cold": _cold}.get(workload, _once)
    if workload in variant.lacks:
        return Sample(operations=0, values={}, error=variant.lacks[workload])
    try:
        python_of(variant.peer)  # Before its server, so that the reason is why it could not be installed.
        with serving(variant.server, directory) as server:
            if hasattr(os, "sync"):
                os.sync()  # The making of the server's files is no part of the sample.
            return take(task, server, directory)
    except PeerUnavailableError as error:
        return Sample(operations=0, values={}, error=str(error))


def _once(task: Task, server: Server, directory: Path) -> Sample:
    return _sample(_drive(task, task.workload, server, directory, free_port()))


def _recovery(task: Task, server: Server, directory: Path) -> Sample:
    """Runs that wait in a process that is killed; the next process ends them. The server, if there is one, goes on."""
    port = free_port()
    left = _drive(task, "leave_waiting", server, directory, port)
    task = attrs.evolve(task, count=left.operations)
    return _sample(_drive(task, "take_up", server, directory, port))


def _cold(task: Task, server: Server, directory: Path) -> Sample:
    """Processes one after the other; the first, which makes schemas and byte code, does not count."""
    _drive(task, "cold", server, directory, free_port())
    answers = [_drive(task, "cold", server, directory, free_port()) for _ in range(task.count)]
    names = answers[0].values
    return Sample(
        operations=len(answers),
        values={name: statistics.median(answer.values[name] for answer in answers) for name in names},
    )


def _sample(answer: Answer) -> Sample:
    return Sample(operations=answer.operations, values=answer.values)


def _drive(task: Task, workload: str, server: Server, directory: Path, port: int) -> Answer:
    """What a driver answers. It is killed as soon as it has."""
    seconds = float(os.environ.get(SECONDS) or 2)
    command = [str(python_of(task.variant.peer)), "-m", "benchmarks.peers.driver", workload]
    command += ["--peer", task.variant.peer, "--variant", task.variant.variant, "--count", str(task.count)]
    command += ["--concurrency", str(task.concurrency), "--seconds", str(seconds), "--directory", str(directory)]
    command += ["--port", str(port), "--address", server.address, "--servers", *map(str, server.pids)]
    log = directory / "driver.log"
    with kept(command, log, answers=True, environment=_environment(task.variant.peer)) as (_, output):
        answer = _read_answer(output, 2 * seconds + PATIENCE_S)
    if answer is None:
        raise PeerUnavailableError(f"its driver did not answer: {last_line(log)}")
    if answer.error:
        raise PeerUnavailableError(answer.error)
    return answer


def _environment(peer: str) -> dict[str, str]:
    """Our checkout for what the drivers share; boxflow's backends for boxflow and the floors alone."""
    paths = [ROOT] if peer in PACKAGES else [ROOT, ROOT / "backends"]
    return {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        # Nothing is sent to anybody.
        "LANGSMITH_TRACING": "false",
        "DO_NOT_TRACK": "1",
    }


def _read_answer(output: IO[str], timeout_s: float) -> Answer | None:
    """The first line that is an answer; None when there is none in time, or the driver has ended."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        try:
            for line in output:
                lines.put(line)
                if line.startswith("{"):
                    break
        except ValueError:
            pass  # It was closed under us: too late.
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if not line:
            return None
        try:
            return msgspec.json.decode(line, type=Answer)
        except msgspec.DecodeError:
            continue  # The peer itself prints.
