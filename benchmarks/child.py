"""How is one sample taken? In a process of its own: `python -m benchmarks.child PROGRAM SUBJECT OPERATIONS DIRECTORY`.

A process for each sample, so that no subject inherits another's heap, caches or threads. It prints the sample as one
line of JSON, the last of its output.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from benchmarks.programs import load


def main(arguments: list[str]) -> None:
    name, subject_name, operations, directory = arguments
    subject = next(one for one in load(name).subjects if one.name == subject_name)
    sample = subject.measure(int(operations), Path(directory))
    print(msgspec.json.encode(sample).decode())


if __name__ == "__main__":
    main(sys.argv[1:])
