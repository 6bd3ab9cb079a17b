"""What is known of a box: its container, its user, its variables, as its labels keep them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

from boxflow.errors import SandboxError
from boxflow.ports import BoxInfo, BoxStatus

WORKSPACE: Final = "/workspace"
"""The working directory of every box."""

JOBS: Final = "/var/lib/boxflow/jobs"
"""Where jobs are kept: a volume, so that snapshots leave it out, and it lasts as long as the box."""

DEFAULT_HOME: Final = "/home/agent"

BOX_LABEL: Final = "boxflow.box"
NAMESPACE_LABEL: Final = "boxflow.docker.namespace"
# As they were given: images bring labels of their own, which a container then carries too.
LABELS_LABEL: Final = "boxflow.docker.labels"
CREATED_LABEL: Final = "boxflow.docker.created"
USER_LABEL: Final = "boxflow.docker.user"
# Here, and not in the container's environment: a snapshot would keep it, and PID 1 would have it.
ENV_LABEL: Final = "boxflow.docker.env"
EGRESS_LABEL: Final = "boxflow.docker.egress"
DISK_LABEL: Final = "boxflow.docker.disk"

SNAPSHOT_LABEL: Final = "boxflow.snapshot"

OWN_LABELS: Final = frozenset(
    {BOX_LABEL, NAMESPACE_LABEL, LABELS_LABEL, CREATED_LABEL, USER_LABEL, ENV_LABEL, EGRESS_LABEL, DISK_LABEL}
    | {SNAPSHOT_LABEL}
)

_STATUSES: Final = {"running": BoxStatus.RUNNING, "restarting": BoxStatus.RUNNING, "paused": BoxStatus.PAUSED}


@attrs.frozen(kw_only=True)
class BoxUser:
    """Who runs the commands of a box."""

    uid: int
    gid: int
    name: str
    home: str

    @property
    def docker(self) -> str:
        """As Docker takes it."""
        return f"{self.uid}:{self.gid}"

    def to_json(self) -> str:
        """For a label."""
        return json.dumps(attrs.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> BoxUser:
        """Of a label."""
        data = json.loads(text)
        return cls(uid=int(data["uid"]), gid=int(data["gid"]), name=str(data["name"]), home=str(data["home"]))


@attrs.frozen(kw_only=True)
class BoxRecord:
    """One container that is a box.

    :param env: of every command, as the box was made with it
    :param image_env: what its image brings
    :param egress: the policy of its gate, as JSON; empty without one
    :param limited: its files are in memory, within `disk_bytes`
    """

    box_id: str
    container_id: str
    image_id: str
    status: BoxStatus
    started: bool
    labels: Mapping[str, str]
    created_at: float
    user: BoxUser
    env: Mapping[str, str]
    image_env: Mapping[str, str]
    egress: str
    limited: bool

    def info(self) -> BoxInfo:
        """As the port tells it."""
        return BoxInfo(box_id=self.box_id, status=self.status, labels=dict(self.labels), created_at=self.created_at)

    def environment(self, user: str | None, *, terminal: bool) -> dict[str, str]:
        """What every process finds beside what was asked for.

        :param user: another one than the box's: whose home is then for Docker to find
        """
        own = {"HOME": self.user.home, "USER": self.user.name, "LOGNAME": self.user.name}
        if user is not None:
            own = {"USER": user, "LOGNAME": user}
        # What the image says about these wins.
        usual = {
            "LANG": "C.UTF-8",
            "TERM": "xterm" if terminal else "dumb",
            "SHELL": "/bin/sh",
            "GIT_TERMINAL_PROMPT": "0",
        }
        return {
            **{name: value for name, value in usual.items() if name not in self.image_env},
            **own,
            "BOXFLOW_BOX": self.box_id,
            "BOXFLOW_JOBS": f"{JOBS}/{digest(self.box_id)}",
            "BOXFLOW_REAPER": "/sbin/docker-init -s --",
        }


def digest(*parts: str) -> str:
    """A short name for *parts*, another for every other. Safe in names, tags and paths."""
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:24]


def container_name(namespace: str, box_id: str) -> str:
    """Of the box's container: readable at its beginning, unique by its end."""
    readable = re.sub(r"[^a-zA-Z0-9_.-]+", "-", box_id)[:40].strip("-.") or "box"
    return f"boxflow-{readable}-{digest(namespace, box_id)}"


def record_of(inspected: Mapping[str, Any]) -> BoxRecord:
    """The record of a container, of Docker's description of it.

    :raises SandboxError: it is none of ours
    """
    config = inspected["Config"]
    labels: Mapping[str, str] = config.get("Labels") or {}
    state = inspected["State"]
    try:
        return BoxRecord(
            box_id=labels[BOX_LABEL],
            container_id=str(inspected["Id"]),
            image_id=str(inspected["Image"]),
            status=_STATUSES.get(str(state["Status"]), BoxStatus.STOPPED),
            started=str(state["Status"]) != "created",
            labels=json.loads(labels[LABELS_LABEL]),
            created_at=float(labels[CREATED_LABEL]),
            user=BoxUser.from_json(labels[USER_LABEL]),
            env=json.loads(labels[ENV_LABEL]),
            image_env=dict(entry.partition("=")[::2] for entry in config.get("Env") or ()),
            egress=labels.get(EGRESS_LABEL, ""),
            limited=bool(labels.get(DISK_LABEL)),
        )
    except (KeyError, ValueError, TypeError) as exc:
        raise SandboxError(
            f"container {inspected.get('Name', '?')!r} carries the name of a box, but was not made as one: {exc!r}; "
            "remove it with `docker rm`"
        ) from exc


def info_of(listed: Mapping[str, Any]) -> BoxInfo | None:
    """The same of an entry of Docker's list; None for a box that is being removed, or is none of ours."""
    labels: Mapping[str, str] = listed.get("Labels") or {}
    if listed.get("State") == "removing" or BOX_LABEL not in labels:
        return None
    try:
        return BoxInfo(
            box_id=labels[BOX_LABEL],
            status=_STATUSES.get(str(listed.get("State")), BoxStatus.STOPPED),
            labels=json.loads(labels[LABELS_LABEL]),
            created_at=float(labels[CREATED_LABEL]),
        )
    except (KeyError, ValueError):
        return None
