"""What must be in an image so that boxes can be made from it: which directories, which user?"""

from __future__ import annotations

import base64
import io
import json
import tarfile
import time
from collections.abc import Mapping
from typing import Any, Final

import attrs

from boxflow.errors import SandboxError
from boxflow_backends.docker_sandbox.record import DEFAULT_HOME, JOBS, WORKSPACE, BoxUser

DEFAULT_UID: Final = 1000
_DEFAULT_NAME: Final = "agent"

# As Go's `os.FileMode` has them, which Docker tells.
_IS_DIRECTORY: Final = 1 << 31

# Users and groups are some kilobytes.
_MAX_BYTES: Final = 1024 * 1024


@attrs.frozen(kw_only=True)
class Layout:
    """What of it an image has already.

    :param places: whether a path is there, of those that are asked for
    :param passwd: the content of /etc/passwd; None where it is no plain file
    """

    places: frozenset[str]
    passwd: str | None
    group: str | None

    @classmethod
    def read(cls, client: Any, container: str) -> Layout:
        """In a thread: of a container that need not run."""
        asked = ("/workspace", "/home", "/var", "/var/lib", "/tmp", "/root", "/etc")  # noqa: S108 - the image's own
        return cls(
            places=frozenset(path for path in asked if _status(client, container, path) is not None),
            passwd=_text(client, container, "/etc/passwd"),
            group=_text(client, container, "/etc/group"),
        )


def user_of(wanted: str | None, passwd: str | None, group: str | None) -> BoxUser:
    """Who runs the commands of a box: *wanted* as `"name"`, `"1000"`, `"1000:1000"`; uid 1000 unless given.

    :raises SandboxError: the image has no such user or group
    """
    entries = [fields for line in (passwd or "").splitlines() if len(fields := line.split(":")) >= 6]
    user, _, wanted_group = (wanted or str(DEFAULT_UID)).partition(":")
    known = next((one for one in entries if one[0] == user or (user.isdecimal() and one[2] == user)), None)
    if known is None and not user.isdecimal():
        raise SandboxError(f"user={wanted!r}: the image has no user {user!r}; name one that it has, or a number")
    uid = int(user) if known is None else int(known[2])
    gid = uid if known is None else int(known[3])
    if wanted_group:
        gid = _group_id(wanted_group, group)
    taken = {one[0] for one in entries}
    name = known[0] if known is not None else _DEFAULT_NAME if _DEFAULT_NAME not in taken else f"{_DEFAULT_NAME}{uid}"
    return BoxUser(uid=uid, gid=gid, name=name, home=_home(uid, known[5] if known is not None else ""))


def laid_out(layout: Layout, user: BoxUser) -> bytes:
    """A tar of what is missing, to be unpacked at `/`."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        # Docker makes missing parents with mode 0600; and a directory in place of a link, so what is there stays.
        for parent in ("/home", "/var", "/var/lib", "/root", "/etc"):
            if parent not in layout.places and parent != user.home:
                _add_directory(tar, parent, mode=0o755)
        if "/tmp" not in layout.places:  # noqa: S108 - the image's own
            _add_directory(tar, "/tmp", mode=0o1777)  # noqa: S108 - as above
        _add_directory(tar, JOBS.rpartition("/")[0], mode=0o755)
        # Like /tmp: jobs may run as different users, and none removes another's.
        _add_directory(tar, JOBS, mode=0o1777)
        for place in (WORKSPACE, user.home):
            _add_directory(tar, place, mode=0o755, owner=user)
        _add_user(tar, layout, user)
    return archive.getvalue()


def _home(uid: int, known: str) -> str:
    """The image's, unless that is a place of something else; the working directory must be empty at first."""
    if uid == 0:
        return "/root"
    return known if known.startswith("/home/") and ".." not in known else DEFAULT_HOME


def _group_id(wanted: str, group: str | None) -> int:
    if wanted.isdecimal():
        return int(wanted)
    for line in (group or "").splitlines():
        fields = line.split(":")
        if len(fields) >= 3 and fields[0] == wanted:
            return int(fields[2])
    raise SandboxError(f"the image has no group {wanted!r}; name one that it has, or a number")


def _add_user(tar: tarfile.TarFile, layout: Layout, user: BoxUser) -> None:
    """Programs ask for the name and the home of whoever runs them. Some fail when there is none."""
    passwd, group = layout.passwd, layout.group
    if passwd is None and "/etc" not in layout.places:
        passwd, group = "root:x:0:0:root:/root:/bin/sh\n", "root:x:0:\n"
    lines = [line.split(":") for line in (passwd or "").splitlines()]
    if passwd is not None and not any(len(one) > 2 and one[2] == str(user.uid) for one in lines):
        entry = f"{user.name}:x:{user.uid}:{user.gid}::{user.home}:/bin/sh\n"
        _add_file(tar, "/etc/passwd", _ending_in_newline(passwd) + entry)
    groups = [line.split(":") for line in (group or "").splitlines()]
    if group is not None and not any(len(one) > 2 and one[2] == str(user.gid) for one in groups):
        _add_file(tar, "/etc/group", _ending_in_newline(group) + f"{user.name}:x:{user.gid}:\n")


def _ending_in_newline(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def _add_directory(tar: tarfile.TarFile, path: str, *, mode: int, owner: BoxUser | None = None) -> None:
    member = tarfile.TarInfo(path.lstrip("/"))
    member.type = tarfile.DIRTYPE
    member.mode = mode
    member.mtime = int(time.time())
    if owner is not None:
        member.uid, member.gid = owner.uid, owner.gid
    tar.addfile(member)


def _add_file(tar: tarfile.TarFile, path: str, text: str) -> None:
    data = text.encode(errors="surrogateescape")
    member = tarfile.TarInfo(path.lstrip("/"))
    member.mode = 0o644
    member.size = len(data)
    member.mtime = int(time.time())
    tar.addfile(member, io.BytesIO(data))


def _status(client: Any, container: str, path: str) -> Mapping[str, Any] | None:
    """What *path* is in a container, which need not run; None when it is not there.

    The docker package can only ask for this together with the content, which may be gigabytes.
    """
    url = f"{client.base_url}/v{client.api_version}/containers/{container}/archive"
    answer = client.head(url, params={"path": path}, timeout=client.timeout)
    if answer.status_code == 404:
        return None
    answer.raise_for_status()
    told: dict[str, Any] = json.loads(base64.b64decode(answer.headers["X-Docker-Container-Path-Stat"]))
    return told


def _text(client: Any, container: str, path: str) -> str | None:
    """The content of a small plain file; None of anything else, which is left alone."""
    status = _status(client, container, path)
    if status is None or status.get("linkTarget") or int(status["mode"]) & _IS_DIRECTORY:
        return None
    if int(status["size"]) > _MAX_BYTES:
        return None
    stream, _ = client.get_archive(container, path)
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
        file = tar.extractfile(tar.next() or tarfile.TarInfo())
        return None if file is None else file.read().decode(errors="surrogateescape")
