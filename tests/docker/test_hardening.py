"""What is a box of Docker not allowed to do, unless it asks for it?"""

from __future__ import annotations

import docker
import pytest

from boxflow.boxes import Boxes
from boxflow.ports import BoxSpec, Capability, ProcessSpec
from boxflow_backends.docker_sandbox import DockerSandbox

pytestmark = [pytest.mark.real, pytest.mark.docker]


async def said(sandbox: DockerSandbox, command: str) -> str:
    async with Boxes(sandbox) as boxes, boxes.create() as box:
        result = await box.exec.command(command)
        return result.stdout + result.stderr


def test_everything_is_declared(sandbox: DockerSandbox) -> None:
    assert sandbox.capabilities == frozenset(Capability)


async def test_commands_are_not_root_and_have_a_name_and_a_home(sandbox: DockerSandbox) -> None:
    out = await said(sandbox, 'id -u; id -g; id -un; echo "$USER $HOME"; pwd; stat -c %u . "$HOME" "$BOXFLOW_JOBS"')
    assert out.split("\n")[:5] == ["1000", "1000", "agent", "agent /home/agent", "/workspace"]
    assert set(out.split("\n")[5:8]) == {"1000"}


async def test_no_process_has_a_capability_or_can_get_one(sandbox: DockerSandbox) -> None:
    out = await said(sandbox, "grep -hE '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs)' /proc/self/status /proc/1/status")
    sets = {line.split()[1] for line in out.splitlines() if line.startswith("Cap")}
    assert sets == {"0000000000000000"}
    assert [line.split()[1] for line in out.splitlines() if line.startswith("NoNew")] == ["1", "1"]


async def test_the_first_process_is_out_of_reach(sandbox: DockerSandbox) -> None:
    out = await said(sandbox, "stat -c %u /proc/1; cat /proc/1/environ; kill -9 1; kill -0 1 || echo refused")
    assert out.startswith("65534\n")
    assert "ermission denied" in out and "refused" in out


async def test_there_is_no_network_but_the_box_s_own(sandbox: DockerSandbox) -> None:
    out = await said(sandbox, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; tail -n +2 /proc/net/route")
    assert out == "lo\n"


async def test_the_docker_socket_is_not_there(sandbox: DockerSandbox) -> None:
    assert await said(sandbox, "ls /run/docker.sock /var/run/docker.sock /run/containerd 2>/dev/null") == ""


async def test_the_system_cannot_be_written_and_devices_cannot_be_made(sandbox: DockerSandbox) -> None:
    out = await said(
        sandbox, "for f in /etc/x /usr/bin/x /x /dev/x; do : > $f; done 2>&1 | grep -c denied; mknod d b 8 0; ls"
    )
    assert out.startswith("4\n")
    assert "d\n" not in out.split("Operation")[0]


async def test_core_dumps_are_off_and_files_are_bounded(sandbox: DockerSandbox) -> None:
    assert await said(sandbox, "ulimit -c; ulimit -n") == "0\n16384\n"


async def test_limits_are_set_although_nobody_asked(
    sandbox: DockerSandbox, engine: docker.APIClient, namespace: str
) -> None:
    async with Boxes(sandbox) as boxes, boxes.create():
        (found,) = engine.containers(filters={"label": f"boxflow.docker.namespace={namespace}"})
        config = engine.inspect_container(found["Id"])["HostConfig"]
    assert (config["PidsLimit"], config["Memory"], config["MemorySwap"]) == (512, 2 * 1024**3, 2 * 1024**3)
    assert 0 < config["NanoCpus"] <= 2e9
    assert (config["LogConfig"]["Type"], config["NetworkMode"], config["Privileged"]) == ("none", "none", False)
    assert (config["CapDrop"], config["CapAdd"], config["IpcMode"]) == (["ALL"], None, "private")


async def test_what_was_asked_for_is_set_instead(
    sandbox: DockerSandbox, engine: docker.APIClient, namespace: str
) -> None:
    async with sandbox:
        await sandbox.create("b", BoxSpec(cpus=0.5, memory_bytes=64 * 1024**2, max_processes=50), {})
        try:
            (found,) = engine.containers(filters={"label": f"boxflow.docker.namespace={namespace}"})
            config = engine.inspect_container(found["Id"])["HostConfig"]
        finally:
            await sandbox.delete("b")
    assert (config["NanoCpus"], config["Memory"], config["PidsLimit"]) == (5e8, 64 * 1024**2, 50)


async def test_root_may_be_asked_for_and_has_no_capability(sandbox: DockerSandbox) -> None:
    async with sandbox:
        await sandbox.create("b", BoxSpec(), {})
        try:
            process = await sandbox.spawn(
                "b", ProcessSpec(argv=["sh", "-c", "id -u; grep CapEff /proc/self/status"], user="root")
            )
            out = b"".join([data async for _, data in process.read()])
        finally:
            await sandbox.delete("b")
    assert out.decode().split() == ["0", "CapEff:", "0000000000000000"]


async def test_a_box_with_a_disk_limit_is_filled_neither_by_bytes_nor_by_files(sandbox: DockerSandbox) -> None:
    script = """
    for d in . "$HOME" /tmp "$BOXFLOW_JOBS" /dev/shm; do head -c 100000000 /dev/zero > "$d/big" 2>/dev/null; done
    cat ./big "$HOME/big" /tmp/big "$BOXFLOW_JOBS/big" /dev/shm/big | wc -c
    rm -f big; n=0; while [ $n -lt 40000 ] && : > f$n; do n=$((n+1)); done 2>/dev/null; echo $n
    : > /etc/x || echo read-only
    """
    async with sandbox:
        await sandbox.create("b", BoxSpec(disk_bytes=64 * 1024**2), {})
        try:
            process = await sandbox.spawn("b", ProcessSpec(argv=["bash", "-c", script]))
            out = b"".join([data async for stream, data in process.read() if stream == "stdout"]).split()
        finally:
            await sandbox.delete("b")
    assert 32 * 1024**2 < int(out[0]) <= 64 * 1024**2
    assert int(out[1]) < 20_000
    assert out[2] == b"read-only"
