"""What is a box to its sandbox? How it is made, and what is in it: the data that `Sandbox` exchanges."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Literal

import attrs

from boxflow.agent_config import AgentConfig
from boxflow.errors import ConfigurationError


class Capability(enum.StrEnum):
    """What a sandbox can do beyond the duties of every sandbox. What it lacks it refuses with `NotSupportedError`."""

    ISOLATION = "isolation"
    """What runs in a box sees neither the files, nor the processes, nor the network of the machine or another box."""

    SNAPSHOT = "snapshot"
    PAUSE = "pause"
    TTY = "tty"

    NETWORK_POLICY = "network-policy"
    """`BoxSpec.network` is enforced."""

    RESOURCE_LIMITS = "resource-limits"
    """`cpus`, `memory_bytes`, `max_processes` and `disk_bytes` bind the box as a whole."""

    IMAGES = "images"
    """`image` and `dockerfile` say what the box is made from."""

    USERS = "users"
    """A process may be started as another user of the box, `"root"` among them."""


class BoxStatus(enum.StrEnum):
    """Where a box stands."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    DELETED = "deleted"


def _names(names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise ConfigurationError(f"Egress(allow={names!r}) is one text; give a list of host names, [{names!r}]")
    return tuple(names)


@attrs.frozen(kw_only=True)
class Egress:
    """Where a box may connect to: nowhere but to these hosts, through a gate outside of the box.

    Nothing else leaves the box, DNS queries included: the gate looks names up itself, and refuses those that lead to
    addresses that are not public. The box reaches the gate as its HTTP proxy (`HTTP_PROXY`, `HTTPS_PROXY`).

    :param allow: host names, `"api.example.org"` or `"*.example.org"` (its subdomains), for ports 443 and 80; with
        `":8443"` behind it for that port only. Addresses match nothing
    :param headers: for a host (or pattern) of *allow*, headers that the gate sets on each request to it. A `$NAME` or
        `${NAME}` in a value is a secret: it is replaced by the engine's variable of that name, at the gate, at each
        request. So the box never sees it, and neither does any record: write no secret itself. `$$` is a dollar sign
    :param resolve: for `"host"` or `"host:port"`, the `"address"` or `"address:port"` to connect to instead of asking
        DNS. It may be private: whoever writes it here means it
    """

    allow: Sequence[str] = attrs.field(converter=_names)
    headers: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict[str, Mapping[str, str]])
    resolve: Mapping[str, str] = attrs.field(factory=dict[str, str])


Network = Literal["none", "open"] | Egress
"""What a box may connect to: nothing, everything that the machine can reach, or some hosts."""


@attrs.frozen(kw_only=True)
class BoxSpec:
    """How a box is made.

    :param image: what it is made from, by name; the local sandbox has only the host and ignores it
    :param dockerfile: text from which an image is built, once, instead of *image*
    :param snapshot: id of the snapshot it begins with, instead of *image*
    :param env: environment of every command in the box
    :param init: a command run once, right after creation; the box is deleted when it fails
    :param ttl_s: a reaper deletes the box this long after its creation, whatever its run does
    :param keep: the box outlives its run
    :param network: what it may connect to; the sandbox's default when None
    :param user: who runs its commands; the sandbox's default (never root) when None
    :param cpus: processors it may use at once, as in `1.5`
    :param memory_bytes: of all its processes together
    :param disk_bytes: of all its files together
    :param max_processes: at once, threads included
    :param agent: what `box.agent` is, unless a call says otherwise; no sandbox's business
    """

    image: str | None = None
    dockerfile: str | None = None
    snapshot: str | None = None
    env: Mapping[str, str] = attrs.field(factory=dict[str, str])
    init: str | None = None
    labels: Mapping[str, str] = attrs.field(factory=dict[str, str])
    ttl_s: float | None = None
    keep: bool = False
    network: Network | None = None
    user: str | None = None
    cpus: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    max_processes: int | None = None
    agent: AgentConfig | None = None


@attrs.frozen(kw_only=True)
class BoxInfo:
    """A box as its sandbox reports it."""

    box_id: str
    status: BoxStatus
    labels: Mapping[str, str]
    created_at: float


@attrs.frozen(kw_only=True)
class SnapshotInfo:
    """A snapshot as its sandbox reports it.

    :param box_id: the box it was made of
    """

    snapshot_id: str
    box_id: str
    labels: Mapping[str, str]
    created_at: float


@attrs.frozen(kw_only=True)
class FileInfo:
    """One entry of a box's file tree; *path* is relative to the directory that was asked for."""

    path: str
    kind: str
    size_bytes: int
    mode: int
    modified_at: float


@attrs.frozen(kw_only=True)
class TerminalSize:
    """How large a terminal is, in characters."""

    columns: int = 80
    rows: int = 24


@attrs.frozen(kw_only=True)
class ProcessSpec:
    """What to start in a box, and how.

    :param argv: the program and its arguments; no shell
    :param cwd: relative to the box's working directory, which is the default; or absolute in the box
    :param env: variables on top of the box's
    :param user: who runs it; the box's user when None
    :param stdin: whether its input stays open for `Process.write`; closed from the start unless so
    :param tty: give it a terminal of this size: both streams arrive as stdout, and *stdin* is open
    :param exec_id: a name, unique in the box, by which `signal` and `end` find its process tree later, from another
        engine too; one is made when None
    """

    argv: Sequence[str]
    cwd: str | None = None
    env: Mapping[str, str] = attrs.field(factory=dict[str, str])
    user: str | None = None
    stdin: bool = False
    tty: TerminalSize | None = None
    exec_id: str | None = None
