"""Which sandboxes are attacked, each in one column of the table?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
from security.attacks import DISK_BYTES

from boxflow.ports import Sandbox


@attrs.frozen(kw_only=True)
class Profile:
    """One column.

    :param make: the sandbox, of a directory of its own and, for Docker, the name of an image
    :param needs: what must be there, as in BOXFLOW_REQUIRE
    :param options: of every box that asks for nothing else
    :param leaves_out: options that this column is about not setting
    """

    column: str
    make: Callable[[Path, str], Sandbox]
    needs: str | None = None
    options: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    leaves_out: frozenset[str] = frozenset()


def _local(directory: Path, _image: str) -> Sandbox:
    from boxflow_backends.local_sandbox import LocalSandbox

    return LocalSandbox(directory)


def _bubblewrap(directory: Path, _image: str) -> Sandbox:
    from boxflow_backends.local_sandbox import LocalSandbox

    return LocalSandbox(directory, isolation="bubblewrap")


def _docker(directory: Path, image: str) -> Sandbox:
    from boxflow_backends.docker_sandbox import DockerSandbox

    # Nobody else's boxes: others may test on the same engine.
    return DockerSandbox(image, namespace=directory.parent.name)


PROFILES: Mapping[str, Profile] = {
    "local": Profile(column="local", make=_local),
    "bubblewrap": Profile(column="local, bubblewrap", make=_bubblewrap, needs="bubblewrap"),
    "docker": Profile(column="docker", make=_docker, needs="docker", leaves_out=frozenset({"disk"})),
    "docker-disk": Profile(column="docker, `disk=`", make=_docker, needs="docker", options={"disk": DISK_BYTES}),
}
