"""In which order is measured? In rounds over all subjects, so that boxflow and its floors see the same machine.

The order turns round in every second round, so that what comes late in a round has no steady advantage. Between
samples the disk is given a moment: what one subject has left for the kernel to write back shall not be paid by the
next.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import msgspec

from benchmarks.model import Program, Sample, Size

ROOT = Path(__file__).parent.parent
SAMPLE_TIMEOUT_S = 3600


def measure(
    program: Program, size: Size, rounds: int, directory: Path, say: Callable[[str], None]
) -> dict[str, list[Sample]]:
    """The samples of each subject that this size has, one for each round."""
    subjects = [subject for subject in program.subjects if size in subject.operations]
    found: dict[str, list[Sample]] = {subject.name: [] for subject in subjects}
    for number in range(rounds):
        for subject in subjects if number % 2 == 0 else reversed(subjects):
            sample = one(program.name, subject.name, subject.operations[size], directory)
            found[subject.name].append(sample)
            shown = "  ".join(f"{name} {sample.values[name]:,.4g}" for name in subject.shown if name in sample.values)
            say(f"{program.name} {number + 1}/{rounds}  {subject.name:<26} {shown}")
    return found


def one(program: str, subject: str, operations: int, directory: Path) -> Sample:
    """One sample, by a process of its own, in an empty directory that is removed."""
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
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if hasattr(os, "sync"):
        os.sync()
    return msgspec.json.decode(answer.stdout.splitlines()[-1], type=Sample)
