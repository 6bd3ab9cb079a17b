"""What does the container of a box look like: its limits, its rights, its first process?

The numbers and flags are those that held in a study of attacks on four profiles; nothing of it costs time.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import Any, Final

import attrs

from boxflow.errors import NotSupportedError
from boxflow.ports import BoxSpec, Egress
from boxflow_backends.docker_sandbox.record import (
    BOX_LABEL,
    CREATED_LABEL,
    DISK_LABEL,
    EGRESS_LABEL,
    ENV_LABEL,
    JOBS,
    LABELS_LABEL,
    NAMESPACE_LABEL,
    USER_LABEL,
    WORKSPACE,
    BoxUser,
)

# Not the box's user, so that the box can neither signal PID 1 nor read its environment. `nobody`, where it has a name.
_FIRST_USER: Final = "65534:65534"

# $1 is when to end, in seconds since the epoch, or "never". An absolute time: a box that is stopped and started again
# lives no longer for it. 2147483647 is the longest sleep that every `sleep` takes.
_FIRST_SCRIPT: Final = r"""
left=2147483647
[ "$1" = never ] || left=$(($1 - $(date +%s)))
[ "$left" -gt 0 ] || exit 0
exec sleep "$left"
"""

_MIB: Final = 1024 * 1024
# Enough for a browser. More than the engine itself may open the kernel refuses, and that is 20,000 on some machines.
_OPEN_FILES: Final = 16384
_SHM_BYTES: Final = 64 * _MIB

# Of `disk_bytes`, in sixteenths: most for the work, some for everything else that is written to.
_SHARES: Final = {"workspace": 9, "home": 2, "tmp": 2, "jobs": 2, "shm": 1}

# About 4 KiB of disk for each file: what ext4 makes by default is one for each 16.
_BYTES_PER_INODE: Final = 4096


@attrs.frozen(kw_only=True)
class Defaults:
    """What a box gets when its spec does not say.

    :param cpus: processors that it may use; fewer where the machine has fewer
    :param memory_bytes: of all its processes together; there is no swap on top
    :param max_processes: threads included
    """

    cpus: float = 2.0
    memory_bytes: int = 2048 * _MIB
    max_processes: int = 512


@attrs.frozen(kw_only=True)
class Machine:
    """What the engine's machine can do."""

    cpus: int
    limits_memory: bool
    limits_cpus: bool
    limits_processes: bool

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Machine:
        """Of the engine's own description."""
        return cls(
            cpus=max(1, int(info.get("NCPU") or 1)),
            limits_memory=bool(info.get("MemoryLimit", True)),
            limits_cpus=bool(info.get("CpuCfsQuota", True)),
            limits_processes=bool(info.get("PidsLimit", True)),
        )

    def refuse_what_it_cannot(self, spec: BoxSpec) -> None:
        """:raises NotSupportedError: *spec* asks for a limit that the machine's kernel does not hold"""
        for asked, held, name in (
            (spec.memory_bytes, self.limits_memory, "memory_bytes"),
            (spec.cpus, self.limits_cpus, "cpus"),
            (spec.max_processes, self.limits_processes, "max_processes"),
        ):
            if asked is not None and not held:
                raise NotSupportedError(
                    f"{name}={asked!r} cannot be enforced: the engine's kernel lacks the cgroup controller for it; "
                    f"leave {name} away, or run Docker where it has"
                )
        for asked, name in ((spec.memory_bytes, "memory_bytes"), (spec.disk_bytes, "disk_bytes")):
            # Docker itself refuses less than 6 MiB of memory.
            if asked is not None and asked < 8 * _MIB:
                raise NotSupportedError(f"{name}={asked} is too little for a box; give it 8 MiB (8388608) or more")


@attrs.frozen(kw_only=True)
class Gate:
    """Where the gate of a box is: a directory of the engine's machine, seen in the box at *target*; and its policy."""

    directory: str
    target: str
    policy: str


def labels_of(
    box_id: str, namespace: str, spec: BoxSpec, labels: Mapping[str, str], user: BoxUser, egress: str
) -> dict[str, str]:
    """Every label of the container."""
    own = {
        BOX_LABEL: box_id,
        NAMESPACE_LABEL: namespace,
        LABELS_LABEL: json.dumps(dict(labels)),
        CREATED_LABEL: repr(time.time()),
        USER_LABEL: user.to_json(),
        ENV_LABEL: json.dumps(dict(spec.env)),
        # Always: what a snapshot's image brings is another box's.
        EGRESS_LABEL: egress,
        DISK_LABEL: "" if spec.disk_bytes is None else str(spec.disk_bytes),
    }
    return {**labels, **own}


def host_config(
    spec: BoxSpec, user: BoxUser, machine: Machine, defaults: Defaults, gate: Gate | None
) -> dict[str, Any]:
    """The keyword arguments of docker's `create_host_config`."""
    memory = _memory_bytes(spec, defaults)
    options: dict[str, Any] = {
        "init": True,
        "network_mode": "bridge" if spec.network == "open" else "none",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "ipc_mode": "private",
        "shm_size": _SHM_BYTES,
        # PID 1's output is a file on the host otherwise, which the box could fill.
        "log_config": {"Type": "none", "Config": {}},
        "restart_policy": {"Name": "no"},
        "ulimits": [
            {"Name": "nofile", "Soft": _OPEN_FILES, "Hard": _OPEN_FILES},
            {"Name": "core", "Soft": 0, "Hard": 0},
        ],
        "mounts": [],
    }
    if machine.limits_memory:
        options |= {"mem_limit": memory, "memswap_limit": memory}
    if machine.limits_cpus:
        # More than the machine has is refused by Docker, and would mean all of them.
        options["nano_cpus"] = int(min(spec.cpus or defaults.cpus, machine.cpus) * 1e9)
    if machine.limits_processes:
        options["pids_limit"] = spec.max_processes or defaults.max_processes
    if spec.disk_bytes is None:
        options["mounts"].append({"Type": "volume", "Target": JOBS})
    else:
        shm = min(_SHM_BYTES, spec.disk_bytes * _SHARES["shm"] // 16)
        options |= {"read_only": True, "tmpfs": _tmpfs(spec.disk_bytes, user), "shm_size": shm}
    if gate is not None:
        options["mounts"].append({"Type": "bind", "Source": gate.directory, "Target": gate.target, "ReadOnly": True})
    return options


def first_process(spec: BoxSpec) -> dict[str, Any]:
    """The keyword arguments of docker's `create_container` for PID 1, which sleeps and does nothing else."""
    until = "never" if spec.ttl_s is None else str(math.ceil(time.time() + spec.ttl_s))
    return {
        "entrypoint": ["/bin/sh", "-c", _FIRST_SCRIPT, "boxflow"],
        "command": [until],
        "user": _FIRST_USER,
        "working_dir": "/",
        "healthcheck": {"test": ["NONE"]},
    }


def network_of(spec: BoxSpec) -> Egress | None:
    """The policy of its gate, if it has one.

    :raises NotSupportedError: another word than Docker boxes know
    """
    if isinstance(spec.network, Egress):
        return spec.network
    if spec.network not in (None, "none", "open"):
        raise NotSupportedError(f'network={spec.network!r} is none of "none", "open" and Egress(...)')
    return None


def _memory_bytes(spec: BoxSpec, defaults: Defaults) -> int:
    """What processes may use. Files that live in memory count too, so there must be room for both."""
    disk = spec.disk_bytes or 0
    if spec.memory_bytes is None:
        return defaults.memory_bytes + disk
    if spec.memory_bytes <= disk:
        raise NotSupportedError(
            f"disk_bytes={disk} does not fit into memory_bytes={spec.memory_bytes}: files of a box with `disk_bytes` "
            "are kept in memory and count as such; raise memory_bytes, or leave it away"
        )
    return spec.memory_bytes


def _tmpfs(disk_bytes: int, user: BoxUser) -> dict[str, str]:
    """Sized file systems in memory for everything that can be written to."""
    owner = f"uid={user.uid},gid={user.gid}"
    places = {
        WORKSPACE: ("workspace", f"mode=0755,{owner}"),
        user.home: ("home", f"mode=0755,{owner}"),
        "/tmp": ("tmp", "mode=1777"),  # noqa: S108 - the box's own
        JOBS: ("jobs", "mode=1777"),
    }
    mounts: dict[str, str] = {}
    for place, (share, options) in places.items():
        size = disk_bytes * _SHARES[share] // 16
        inodes = max(64, size // _BYTES_PER_INODE)
        mounts[place] = f"rw,exec,nosuid,nodev,size={size},nr_inodes={inodes},{options}"
    return mounts
