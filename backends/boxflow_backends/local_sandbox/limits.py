"""How is each process of a local box bounded? By the limits of setrlimit(2), set by a shell before it becomes it."""

from __future__ import annotations

import resource

import attrs


@attrs.frozen(kw_only=True)
class ProcessLimits:
    """What one process may take. None: what this process may.

    They bind each process by itself, and not the box: ten processes take ten times as much. Hygiene against mistakes,
    no defence. With limits a process leaves no core dumps.

    :param memory_bytes: of its address space
    :param file_bytes: of each file that it writes
    :param open_files: at once
    :param processes: of its user on this machine at once, threads included. It does nothing for root
    :param cpu_s: of processor time; then SIGXCPU
    """

    memory_bytes: int | None = None
    file_bytes: int | None = None
    open_files: int | None = None
    processes: int | None = None
    cpu_s: int | None = None

    def __attrs_post_init__(self) -> None:
        for name, value in attrs.asdict(self).items():
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value} lets no process live; use a positive number, or None")

    def shell(self) -> str:
        """The shell commands that set them, each followed by a newline."""
        commands = ["ulimit -c 0"]
        for option, kind, value, unit in (
            # The units are those of POSIX mode: bash counts -f in other ones otherwise.
            ("-v", resource.RLIMIT_AS, self.memory_bytes, 1024),
            ("-f", resource.RLIMIT_FSIZE, self.file_bytes, 512),
            ("-n", resource.RLIMIT_NOFILE, self.open_files, 1),
            ("-t", resource.RLIMIT_CPU, self.cpu_s, 1),
        ):
            if value is not None:
                commands.append(f"ulimit {option} {_bounded(kind, value) // unit} || exit 126")
        if self.processes is not None:
            number = _bounded(resource.RLIMIT_NPROC, self.processes)
            # dash has another letter for it than all others.
            commands.append(f"ulimit -u {number} 2>/dev/null || ulimit -p {number} || exit 126")
        return "\n".join(commands) + "\n"


def _bounded(kind: int, value: int) -> int:
    """At most what we may have ourselves: only root could ask for more."""
    hard = resource.getrlimit(kind)[1]
    return value if hard == resource.RLIM_INFINITY else min(value, hard)
