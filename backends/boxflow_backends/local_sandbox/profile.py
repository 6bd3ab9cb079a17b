"""What does an isolated box see of this machine? The arguments of bubblewrap."""

# No pathlib: paths of links, as they stand.
# ruff: noqa: PTH112, PTH114, PTH115

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from boxflow_backends.egress_gate import forwarder_argv
from boxflow_backends.local_sandbox.users import BoxUser

GATE_DIRECTORY: Final = "/run/boxflow"
"""Where a box finds the gate to the hosts that it may reach."""

# Programs and what they load. On most systems all but /usr are links into it.
_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")

# Of /etc: what programs need to run, and nothing that tells of this machine.
_SETTINGS = (
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    # Not `ssl` and `pki` whole: private keys lie beside the certificates, and only their file modes guard them.
    "pki/ca-trust",
    "pki/tls/cert.pem",
    "pki/tls/certs",
    "pki/tls/openssl.cnf",
    "protocols",
    "services",
    "ssl/cert.pem",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
)
_NETWORK_SETTINGS = ("gai.conf", "hosts", "nsswitch.conf", "resolv.conf")

# The number of `nobody` and its group, by custom; Linux shows it for what has no number in a namespace.
_NOBODY = 65534

# The first process of the box: it takes in orphans, and lives as long as the box. Nothing in the box can end it, since
# a process namespace keeps signals from its first process. What it waits for may be ended there; then it begins anew.
# Its arguments are the forwarder to the box's gate, which says "ready" itself.
_FIRST_PROCESS = """
if [ $# = 0 ]; then echo ready; else
    { "$@"; exec >/dev/null 2>&1; while :; do sleep 1; "$@"; done; } &
fi
exec >/dev/null 2>&1
while :; do sleep 1000000 & wait $!; done
"""


@attrs.frozen(kw_only=True)
class Profile:
    """What one box sees.

    :param places: directories of its own, at the same paths as outside
    :param open_network: it shares the machine's network
    :param gate: the directory of its gate, outside; it sees it read-only
    :param no_namespaces: whether bubblewrap can forbid it to make namespaces of its own
    """

    box_id: str
    user: BoxUser
    home: Path
    places: Sequence[Path]
    open_network: bool
    gate: Path | None
    no_namespaces: bool

    def written(self) -> dict[str, str]:
        """Files that it sees and nobody else, with their content."""
        user = self.user
        accounts = [
            f"{user.name}:x:{user.uid}:{user.gid}:{user.name}:{self.home}:/bin/sh",
            "root:x:0:0:root:/root:/bin/false",
        ]
        groups = [f"{user.name}:x:{user.gid}:", "root:x:0:"]
        if user.uid != _NOBODY:
            accounts.append(f"nobody:x:{_NOBODY}:{_NOBODY}:nobody:/nonexistent:/bin/false")
            groups.append(f"nogroup:x:{_NOBODY}:")
        files = {"/etc/passwd": accounts, "/etc/group": groups}
        if not self.open_network:
            files["/etc/hosts"] = ["127.0.0.1 localhost box", "::1 localhost"]
        return {path: "".join(f"{line}\n" for line in lines) for path, lines in files.items()}

    def arguments(self, program: str, *, info: int, written: Mapping[str, int]) -> list[str]:
        """The command that makes it.

        :param info: a descriptor, to which bubblewrap writes what it has made
        :param written: descriptors to read the files of `written` from
        """
        arguments = [
            *(program, "--unshare-all", "--unshare-user"),
            *(("--disable-userns",) if self.no_namespaces else ()),
            *(("--share-net",) if self.open_network else ()),
            *("--uid", str(self.user.uid), "--gid", str(self.user.gid), "--cap-drop", "ALL"),
            *("--hostname", "box", "--as-pid-1", "--info-fd", str(info)),
            *_system(),
            *_settings(_SETTINGS),
            *(_settings(_NETWORK_SETTINGS) if self.open_network else ()),
        ]
        for path, fd in written.items():
            arguments += ["--ro-bind-data", str(fd), path]
        # The kernel's settings are the machine's, and go by the number of the user: of root, where the engine is root.
        arguments += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys"]
        arguments += ["--dev", "/dev", "--perms", "1777", "--tmpfs", "/tmp"]  # noqa: S108  # its own
        for place in self.places:
            arguments += ["--bind", str(place), str(place)]
        if self.gate is not None:
            arguments += ["--ro-bind", str(self.gate), GATE_DIRECTORY]
        # What bubblewrap has made to mount all that upon is in memory, and nobody's to fill.
        arguments += ["--remount-ro", "/", "--chdir", "/", "--", "/bin/sh", "-c", _FIRST_PROCESS, "box"]
        return arguments + ([] if self.gate is None else forwarder_argv(f"{GATE_DIRECTORY}/gate.sock"))


def _system() -> list[str]:
    arguments: list[str] = []
    for name in _SYSTEM:
        path = f"/{name}"
        if os.path.islink(path):
            arguments += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            arguments += ["--ro-bind", path, path]
    return arguments


def _settings(names: Sequence[str]) -> list[str]:
    return [argument for name in names for argument in ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")]
