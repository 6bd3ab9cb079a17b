"""Which attacks are there? One for each row of the table: what runs in the box, and what the engine does beside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
from security import traps
from security.outcome import Outcome, Run
from security.scene import Scene

from boxflow import Box, Boxes

PROGRAMS = Path(__file__).parent / "programs"

# Small, so that a sandbox that does not hold them does not hurt the machine either; and so that even a busy machine has
# more than that part of a processor to give.
MEMORY_BYTES, DISK_BYTES, PROCESSORS, PROCESSES = 256_000_000, 64_000_000, 0.1, 128

GROUPS = ("limits", "files", "rights", "network")


@attrs.frozen(kw_only=True)
class Attack:
    """One row.

    :param group: the attacks of a group run after each other, in one box as far as their options are the same
    :param program: the module of `programs` that *function* is in
    :param options: of the box; a sandbox that refuses them gets a box without them
    :param gated: the box may reach one host, by `Scene.egress`
    :param facts: more for the function to know
    :param engine: what the engine does beside or after running the function, and how it sees what came of it
    :param depends_on_machine: the machine itself may refuse it to everybody
    :param needs_docker: it is about Docker, also against sandboxes that are not
    :param box_alone: nothing else runs in its box, before or after
    :param wanted: no attack, but what must work
    """

    group: str
    program: str
    function: str
    options: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    gated: bool = False
    facts: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    engine: Callable[[Scene, Boxes, Box, Run], Awaitable[Outcome]] | None = None
    depends_on_machine: bool = False
    needs_docker: bool = False
    box_alone: bool = False
    wanted: bool = False

    def text(self) -> str:
        """The whole program, as it runs in the box."""
        return (PROGRAMS / f"{self.program}.py").read_text() + (PROGRAMS / "ending.py").read_text()

    def verdict(self, succeeded: bool) -> str:
        """As the table says it."""
        if self.wanted:
            return "works" if succeeded else "does not work"
        return "not held" if succeeded else "held"


def _limit(function: str, **more: Any) -> Attack:
    return Attack(group="limits", program="limits", function=function, **more)


def _file(function: str, engine: Any = None, **more: Any) -> Attack:
    return Attack(group="files", program="files", function=function, engine=engine, **more)


def _process(function: str, engine: Any = None, **more: Any) -> Attack:
    return Attack(group="rights", program="processes", function=function, engine=engine, **more)


def _kernel(function: str, group: str = "rights") -> Attack:
    return Attack(group=group, program="kernel", function=function, depends_on_machine=True)


def _network(function: str, engine: Any = None, **more: Any) -> Attack:
    return Attack(group="network", program="network", function=function, engine=engine, **more)


def _gated(function: str, engine: Any = None, **more: Any) -> Attack:
    return Attack(group="network", program="network", function=function, engine=engine, gated=True, **more)


_BOUNDED = {"max_processes": PROCESSES, "memory": MEMORY_BYTES}
_DISK = {"disk": DISK_BYTES}
_FILL = {"fill_bytes": 2 * DISK_BYTES}

ATTACKS: Mapping[str, Attack] = {
    "fork bomb": _limit("fork_bomb", options=_BOUNDED, facts={"processes": 600}),
    "memory bomb": _limit("memory_bomb", options=_BOUNDED, facts={"memory_bytes": MEMORY_BYTES}),
    "processor hog": _limit("processor_hog", options={"cpus": PROCESSORS}, facts={"processors": PROCESSORS}),
    "fill the working directory": _limit("fill_work", options=_DISK, facts=_FILL),
    "fill `/tmp`": _limit("fill_tmp", options=_DISK, facts=_FILL),
    "fill the disk elsewhere": _limit("fill_elsewhere", options=_DISK, facts=_FILL),
    "use up the inodes": _limit("fill_inodes", options={"disk": DISK_BYTES // 4}, facts={"files": 3000}),
    # --- files
    "read a file of the machine": _file("read_outside"),
    "read passwords and private keys": _file("read_private", depends_on_machine=True),
    "write a file of the machine": _file("write_outside", traps.written_outside),
    "read another box's files": _file("read_other_box"),
    "change `/etc/passwd`": _file("write_passwd"),
    "change the programs": _file("write_programs"),
    "a link planted for `files.read`": _file("plant_for_reading", traps.read_planted),
    "a link planted for `files.write`": _file("plant_for_writing", traps.write_planted),
    "a link swapped in meanwhile": _file("swap", traps.write_swapped),
    "links in what is downloaded": _file("plant_for_download", traps.download_planted, box_alone=True),
    "a `tar` that lies": _file(
        "plant_lying_tar",
        traps.download_planted,
        options={"env": {"PATH": "/workspace/lies:lies:/usr/local/bin:/usr/bin:/bin"}},
    ),
    # --- processes, and secrets in their environment
    "the engine's environment": _process("engine_environment"),
    "see processes of the machine": _process("see_host_processes"),
    "signal a process of the machine": _process("signal_host_process", traps.victim_signalled),
    "trace a process of the machine": _process("trace_host_process", depends_on_machine=True),
    "see another box's processes": _process("other_box_processes"),
    "another box's environment": _process("other_box_environment"),
    "a secret of another exec of the same box": _process("exec_environment", traps.beside_an_exec),
    "trace another process of the same box": _process("trace_own_process", depends_on_machine=True),
    "the environment of PID 1": _process("first_environment", depends_on_machine=True),
    "end PID 1": _process("kill_first", traps.box_goes_on, box_alone=True),
    "outlive a timeout": _process("leave_daemon", traps.daemon_after_timeout),
    "outlive the box": _process("leave_daemon", traps.daemon_after_delete, box_alone=True),
    # --- rights, and parts of the kernel
    "be root": _kernel("be_root"),
    "have capabilities": _kernel("capabilities"),
    "become root by a setuid program": _kernel("setuid_program"),
    "mount a file system": _kernel("mount_tmpfs"),
    "mount a directory": _kernel("mount_bind"),
    "new user namespace": _kernel("user_namespace"),
    "new mount namespace": _kernel("mount_namespace"),
    "make a device": _kernel("make_device"),
    "change the kernel's settings": _kernel("kernel_settings"),
    "load a kernel module": _kernel("load_module"),
    "io_uring": _kernel("io_uring"),
    "bpf": _kernel("bpf"),
    "perf": _kernel("perf"),
    "keyring": _kernel("keyring"),
    # --- the network
    "a unix socket of the machine": _network("unix_socket"),
    "an abstract unix socket": _network("abstract_socket"),
    "Docker's socket": _network("docker_socket", needs_docker=True),
    "TCP to the machine's loopback": _network("tcp_loopback"),
    "TCP to its other addresses": _network("tcp_addresses"),
    "UDP": _network("udp", traps.udp_arrived),
    "a DNS query": _network("dns", traps.dns_arrived),
    "raw socket": _kernel("raw_socket", group="network"),
    "packet socket": _kernel("packet_socket", group="network"),
    "a socket to the hypervisor": _kernel("hypervisor_socket", group="network"),
    # --- with an allow-list
    "an allowed host": _gated("allowed_host", wanted=True),
    "another host": _gated("forbidden_host"),
    "a DNS tunnel": _gated("dns_tunnel", traps.name_asked),
    "the secret of a header": _gated("gate_secret", traps.gate_secret_kept),
}
