"""What may be said of a box that is to be made? The options of `Boxes.create` and `Context.box`, in one place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal, TypedDict

from boxflow.agent_config import AgentConfig
from boxflow.boxes.snapshots import Snapshot
from boxflow.errors import ConfigurationError
from boxflow.model import Duration, seconds
from boxflow.ports import BoxSpec, Egress, Network

Size = int | str
"""Bytes, or text: `"512MB"` (a million bytes each), `"2GiB"` (1024 times 1024 times 1024 each)."""


# Not any sequence: a text is one of texts, too, and `network="example.org"` must be refused.
AskedNetwork = Literal["none", "open"] | Egress | list[str] | tuple[str, ...]


class BoxOptions(TypedDict, total=False):
    """How a box is made; nothing of it must be given.

    image: what it is made from, by name; the local sandbox has only the host and ignores it.
    dockerfile: text from which an image is built, once, instead of *image*.
    snapshot: a snapshot, or its id, to begin with, instead of *image*.
    env: environment of every command in the box.
    init: a command run once, right after creation; when it fails the box is deleted.
    labels: found by `Boxes.list`.
    ttl: how long it may live before a reaper deletes it.
    keep: it outlives its block, or its run.
    network: `"none"`, `"open"`, or the hosts that it may reach: a list of names, or an `Egress`. The sandbox's default
        unless given: nothing in Docker, everything locally.
    user: who runs its commands, where the sandbox has users.
    cpus: processors it may use at once.
    memory, disk: bounds on all its processes and all its files together, in bytes or as `"512MB"`.
    max_processes: how many at once, threads included.
    agent: the coding agent that `box.agent` is, by name or with its model and key: `AgentConfig("codex", ...)`.
    """

    image: str | None
    dockerfile: str | None
    snapshot: Snapshot | str | None
    env: Mapping[str, str] | None
    init: str | None
    labels: Mapping[str, str] | None
    ttl: Duration | None
    keep: bool
    network: AskedNetwork | None
    user: str | None
    cpus: float | None
    memory: Size | None
    disk: Size | None
    max_processes: int | None
    agent: str | AgentConfig | None


def box_spec(options: BoxOptions) -> BoxSpec:
    """*options* as a sandbox takes them.

    :raises ConfigurationError: an option that does not exist, two that exclude each other, or a value out of its range
    """
    unknown = sorted(set(options) - set(BoxOptions.__annotations__))
    if unknown:
        known = ", ".join(BoxOptions.__annotations__)
        raise ConfigurationError(f"a box has no option {unknown[0]!r}; known are {known}")
    origins = [name for name in ("image", "dockerfile", "snapshot") if options.get(name)]
    if len(origins) > 1:
        raise ConfigurationError(f"a box is made from one thing; got {' and '.join(origins)}")
    snapshot = options.get("snapshot")
    agent = options.get("agent")
    ttl, memory, disk = options.get("ttl"), options.get("memory"), options.get("disk")
    spec = BoxSpec(
        image=options.get("image"),
        dockerfile=options.get("dockerfile"),
        snapshot=snapshot.id if isinstance(snapshot, Snapshot) else snapshot,
        env=dict(options.get("env") or {}),
        init=options.get("init"),
        labels=dict(options.get("labels") or {}),
        ttl_s=None if ttl is None else seconds(ttl),
        keep=options.get("keep", False),
        network=_network(options.get("network")),
        user=options.get("user"),
        cpus=options.get("cpus"),
        memory_bytes=None if memory is None else size_bytes(memory),
        disk_bytes=None if disk is None else size_bytes(disk),
        max_processes=options.get("max_processes"),
        agent=AgentConfig(harness=agent) if isinstance(agent, str) else agent,
    )
    for name, value in (("cpus", spec.cpus), ("memory", spec.memory_bytes), ("disk", spec.disk_bytes)):
        if value is not None and value <= 0:
            raise ConfigurationError(f"{name}={value!r} must be more than 0")
    if spec.max_processes is not None and spec.max_processes < 1:
        raise ConfigurationError(f"max_processes={spec.max_processes!r} must be at least 1")
    return spec


def _network(asked: AskedNetwork | None) -> Network | None:
    if asked is None or isinstance(asked, Egress):
        return asked
    if not isinstance(asked, str):
        return Egress(allow=tuple(asked))
    if asked == "none":
        return "none"
    if asked == "open":
        return "open"
    raise ConfigurationError(
        f"network={asked!r} is not understood; write 'none', 'open', or a list of host names as in [{asked!r}]"
    )


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)(i?)[bB]?")
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def size_bytes(size: Size) -> int:
    """*size* in bytes.

    :raises ConfigurationError: text of another form than `"512MB"` or `"2GiB"`
    """
    if isinstance(size, int):
        return size
    found = _SIZE.fullmatch(size.strip())
    if found is None:
        raise ConfigurationError(f'size {size!r} is not understood; write bytes, "512MB" or "2GiB"')
    number, unit, binary = found.groups()
    base = 1024 if binary else 1000
    return round(float(number) * float(base ** _POWERS[unit.lower()]))
