"""In which order is measured? In rounds over all subjects, so that boxflow and its floors see the same machine.

The order turns round in every second round, so that what comes late in a round has no steady advantage. Between
samples the disk is given a moment: what one subject has left for the kernel to write back shall not be paid by the
next.

What cannot be measured, a peer that is not here for one, is a sample with an error. It gets a second try, not a third.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import msgspec

from benchmarks.model import Program, Sample, Size, Subject

ROOT = Path(__file__).parent.parent
SAMPLE_TIMEOUT_S = 3600


def measure(
    program: Program,
    size: Size,
    rounds: int,
    directory: Path,
    say: Callable[[str], None],
    *,
    seconds: float = float("inf"),
) -> dict[str, list[Sample]]:
    """The samples of each subject that this size has, one for each round.

    :param seconds: no round begins that would probably take longer, all in all; the first one always does
    """
    subjects = [subject for subject in program.subjects if size in subject.operations]
    found: dict[str, list[Sample]] = {subject.name: [] for subject in subjects}
    begun = time.monotonic()
    for number in range(rounds):
        spent_s = time.monotonic() - begun
        if number and spent_s * (number + 1) / number > seconds:
            say(f"{program.name}: {number} rounds instead of {rounds}, for lack of time")
            break
        for subject in subjects if number % 2 == 0 else reversed(subjects):
            samples = found[subject.name]
            if number >= 2 and all(sample.error for sample in samples):
                sample = samples[-1]
            else:
                sample = one(program.name, subject.name, subject.operations[size], directory)
            samples.append(sample)
            say(f"{program.name} {number + 1}/{rounds}  {subject.name:<26} {_shown(subject, sample)}")
    return found


def _shown(subject: Subject, sample: Sample) -> str:
    if sample.error:
        return f"not measured: {sample.error}"
    return "  ".join(f"{name} {sample.values[name]:,.4g}" for name in subject.shown if name in sample.values)


def one(program: str, subject: str, operations: int, directory: Path) -> Sample:
    """One sample, by a process of its own, in an empty directory that is removed; one with an `error` if that fails."""
    scratch = Path(mkdtemp(prefix=f"{program}-", dir=directory))
    paths = [str(ROOT), str(ROOT / "backends"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        # Compiled once, as in an installed package, even where the environment forbids it in the checkout.
        "PYTHONPYCACHEPREFIX": str(directory / "bytecode"),
        "PYTHONDONTWRITEBYTECODE": "",
    }
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "benchmarks.child", program, subject, str(operations), str(scratch)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            timeout=SAMPLE_TIMEOUT_S,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        # What it said is on the terminal; what others have measured meanwhile is not lost with it.
        return Sample(operations=0, values={}, error=f"its process ended with {error.returncode}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if hasattr(os, "sync"):
        os.sync()
    return msgspec.json.decode(answer.stdout.splitlines()[-1], type=Sample)
