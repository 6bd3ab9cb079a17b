"""What becomes of boxes of Docker when several make them, somebody dies in between, or nobody is left?"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from typing import Any

import docker
import pytest
from docker_image import busybox_image, tools_image

from boxflow.boxes import Box, Boxes
from boxflow.errors import ImageNotFoundError, NotSupportedError, SandboxError, SandboxUnavailableError
from boxflow.ports import BoxSpec, BoxStatus, ProcessSpec
from boxflow_backends.docker_sandbox import DockerSandbox
from boxflow_backends.docker_sandbox.images import PREPARED

pytestmark = [pytest.mark.real, pytest.mark.docker]

# Tries again when it is refused, so that no place ever stays free.
BOMB = """
import os, time
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.01)
"""


def of(engine: docker.APIClient, namespace: str) -> list[Mapping[str, Any]]:
    return engine.containers(all=True, filters={"label": f"boxflow.docker.namespace={namespace}"})


async def out(sandbox: DockerSandbox, box_id: str, script: str) -> str:
    process = await sandbox.spawn(box_id, ProcessSpec(argv=["sh", "-c", script]))
    said = b"".join([data async for _, data in process.read()])
    assert await process.wait() == 0, said
    return said.decode()


async def test_two_sandboxes_that_make_one_id_at_once_get_one_box(namespace: str, engine: docker.APIClient) -> None:
    image = tools_image()
    async with DockerSandbox(image, namespace=namespace) as one, DockerSandbox(image, namespace=namespace) as other:
        made = await asyncio.gather(
            *(each.create("same", BoxSpec(), {"by": str(n)}) for n, each in enumerate([one, other] * 4))
        )
        assert len({info.labels["by"] for info in made}) == 1
        assert {info.status for info in made} == {BoxStatus.RUNNING}
        assert len(of(engine, namespace)) == 1
        await asyncio.gather(one.delete("same"), other.delete("same"))
        assert of(engine, namespace) == []


async def test_a_box_that_was_made_and_never_started_is_started_by_the_next_who_makes_it(
    sandbox: DockerSandbox, engine: docker.APIClient, namespace: str
) -> None:
    async with sandbox:
        await sandbox.create("b", BoxSpec(env={"KEPT": "yes"}), {"l": "1"})
        (found,) = of(engine, namespace)
        described = engine.inspect_container(found["Id"])
        await sandbox.delete("b")
        # As an engine leaves it that dies between the two calls.
        engine.create_container(
            described["Config"]["Image"],
            name=described["Name"].lstrip("/"),
            entrypoint=described["Config"]["Entrypoint"],
            command=described["Config"]["Cmd"],
            labels=described["Config"]["Labels"],
            user=described["Config"]["User"],
            host_config=engine.create_host_config(init=True, network_mode="none"),
        )
        (listed,) = await sandbox.list({"l": "1"})
        assert (listed.box_id, listed.status) == ("b", BoxStatus.STOPPED)
        assert (await sandbox.create("b", BoxSpec(), {})).status is BoxStatus.RUNNING
        assert await out(sandbox, "b", "echo $KEPT") == "yes\n"
        await sandbox.delete("b")


async def test_ids_may_be_anything(sandbox: DockerSandbox) -> None:
    async with sandbox:
        for box_id in ("a/b:c d", "ü" * 300, "-rf", "a/b:c_d"):
            await sandbox.create(box_id, BoxSpec(), {"k=v": "a=b, c\nd"})
        try:
            listed = await sandbox.list({"k=v": "a=b, c\nd"})
            assert [info.box_id for info in listed] == ["a/b:c d", "ü" * 300, "-rf", "a/b:c_d"]
        finally:
            for box_id in ("a/b:c d", "ü" * 300, "-rf", "a/b:c_d"):
                await sandbox.delete(box_id)


async def test_boxes_of_another_namespace_are_not_found(sandbox: DockerSandbox) -> None:
    async with sandbox, DockerSandbox(tools_image(), namespace="another") as other:
        await sandbox.create("b", BoxSpec(), {})
        try:
            assert [info for info in await other.list({}) if info.box_id == "b"] == []
            await other.delete("b")
            assert (await sandbox.get("b")).status is BoxStatus.RUNNING
        finally:
            await sandbox.delete("b")


async def test_a_box_with_a_ttl_ends_without_anybody(
    sandbox: DockerSandbox, engine: docker.APIClient, namespace: str
) -> None:
    async with sandbox:
        await sandbox.create("b", BoxSpec(ttl_s=2), {})
    for _ in range(100):
        (found,) = of(engine, namespace)
        if found["State"] == "exited":
            break
        await asyncio.sleep(0.1)
    assert found["State"] == "exited"
    async with sandbox:
        assert (await sandbox.get("b")).status is BoxStatus.STOPPED
        await sandbox.delete("b")


async def test_a_box_leaves_neither_container_nor_volume_nor_image(
    sandbox: DockerSandbox, engine: docker.APIClient
) -> None:
    def volumes() -> set[str]:
        return {one["Name"] for one in engine.volumes()["Volumes"] or ()}

    def images() -> set[str]:
        return {one["Id"] for one in engine.images(all=True)}

    async with sandbox:
        await sandbox.create("first", BoxSpec(), {})
        await sandbox.delete("first")
        before = volumes(), images()
        await sandbox.create("b", BoxSpec(), {})
        (volume,) = volumes() - before[0]
        await sandbox.snapshot("b", "s", {})
        await sandbox.create("c", BoxSpec(snapshot="s"), {})
        await sandbox.delete_snapshot("s")
        assert await sandbox.list_snapshots({}) == []
        assert await out(sandbox, "c", "echo still there") == "still there\n"
        await sandbox.delete("b")
        await sandbox.delete("c")
        assert volume not in volumes()
        assert images() <= before[1]


async def test_an_image_is_prepared_once_by_many(namespace: str, engine: docker.APIClient) -> None:
    image = busybox_image()
    user = "4711"  # Nobody else's in these tests, so that it is prepared here.
    label = f"boxflow.docker.user={json.dumps({'uid': 4711, 'gid': 4711, 'name': 'agent', 'home': '/home/agent'})}"
    for known in engine.images(PREPARED, filters={"label": label}):
        engine.remove_image(known["Id"], force=True)
    async with DockerSandbox(image, namespace=namespace) as one, DockerSandbox(image, namespace=namespace) as other:
        await asyncio.gather(*(each.create(f"b{n}", BoxSpec(user=user), {}) for n, each in enumerate([one, other] * 3)))
        try:
            assert await out(one, "b0", "id -u; id -un; echo $HOME; : > $HOME/f; : > f") == "4711\nagent\n/home/agent\n"
            assert len(engine.images(filters={"label": label})) == 1
            assert engine.containers(all=True, filters={"name": "boxflow-preparing"}) == []
        finally:
            await asyncio.gather(*(one.delete(f"b{n}") for n in range(6)))
    for known in engine.images(filters={"label": label}):
        engine.remove_image(known["Id"], force=True)


async def test_a_user_that_the_image_lacks_is_an_error_that_names_it(sandbox: DockerSandbox) -> None:
    async with sandbox:
        with pytest.raises(SandboxError, match="nobody-here"):
            await sandbox.create("b", BoxSpec(user="nobody-here"), {})
        await sandbox.create("b", BoxSpec(), {})
        try:
            with pytest.raises(SandboxError, match="no user 'nobody-here'"):
                await sandbox.spawn("b", ProcessSpec(argv=["true"], user="nobody-here"))
        finally:
            await sandbox.delete("b")


async def test_a_dockerfile_is_built_once(sandbox: DockerSandbox, engine: docker.APIClient) -> None:
    text = f"FROM {tools_image()}\nENV BUILT=here\n"
    async with sandbox:
        await asyncio.gather(*(sandbox.create(f"b{n}", BoxSpec(dockerfile=text), {}) for n in range(3)))
        try:
            assert await out(sandbox, "b2", "echo $BUILT") == "here\n"
        finally:
            await asyncio.gather(*(sandbox.delete(f"b{n}") for n in range(3)))
        with pytest.raises(ImageNotFoundError, match="no-such-file"):
            await sandbox.create("c", BoxSpec(dockerfile=f"FROM {tools_image()}\nCOPY no-such-file /\n"), {})


async def test_files_in_memory_have_no_snapshot_and_need_room(sandbox: DockerSandbox) -> None:
    async with sandbox:
        with pytest.raises(NotSupportedError, match="memory_bytes"):
            await sandbox.create("b", BoxSpec(disk_bytes=100 * 2**20, memory_bytes=50 * 2**20), {})
        await sandbox.create("b", BoxSpec(disk_bytes=32 * 2**20), {})
        try:
            with pytest.raises(NotSupportedError, match="disk_bytes"):
                await sandbox.snapshot("b", "s", {})
        finally:
            await sandbox.delete("b")


async def test_a_silent_reader_holds_up_nobody_else(sandbox: DockerSandbox) -> None:
    async with sandbox:
        await sandbox.create("b", BoxSpec(), {})
        try:
            # Its output is not taken, so it waits; and the engine does not see its end.
            await sandbox.spawn("b", ProcessSpec(argv=["yes"], exec_id="loud"))
            await asyncio.sleep(0.5)
            async with asyncio.timeout(20):
                await sandbox.end("b", "loud")
                assert await out(sandbox, "b", "echo free") == "free\n"
        finally:
            await sandbox.delete("b")


@pytest.mark.parametrize(
    "bomb", ["bash -c ':(){ :|:& };:; sleep 600'", f"python3 -c '{BOMB}'"], ids=["shell", "stubborn"]
)
async def test_a_box_that_is_full_of_processes_is_emptied_and_keeps_its_files(
    sandbox: DockerSandbox, bomb: str
) -> None:
    async with sandbox:
        await sandbox.create("b", BoxSpec(max_processes=80), {})
        try:
            await sandbox.write_file("b", "kept", b"work")
            process = await sandbox.spawn("b", ProcessSpec(argv=["sh", "-c", bomb]))
            await asyncio.sleep(1)
            await process.kill()
            assert await process.wait() == 137
            assert await out(sandbox, "b", "cat kept; set -- /proc/[0-9]*; [ $# -lt 12 ]") == "work"
        finally:
            await sandbox.delete("b")


async def test_a_sandbox_can_be_entered_again_and_is_of_no_use_outside(sandbox: DockerSandbox) -> None:
    async with sandbox:
        assert await sandbox.list({}) == []
    with pytest.raises(SandboxUnavailableError, match="async with"):
        await sandbox.list({})
    async with sandbox:
        assert await sandbox.list({}) == []


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("unix:///nowhere/docker.sock", "DOCKER_HOST"),
        ("ssh://somewhere", "ssh -N -L"),
        ("tcp://127.0.0.1:1", "127.0.0.1:1"),
    ],
)
async def test_an_engine_that_is_not_there_is_told_at_once_with_what_to_do(host: str, said: str) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(SandboxUnavailableError, match=said):
            async with DockerSandbox(host=host):
                pass


@pytest.mark.slow
def test_fifty_boxes_run_hundreds_of_commands_at_once(namespace: str) -> None:
    async def run() -> None:
        # Docker starts some 25 commands a second on two cores, whoever asks, and that is most of the time.
        async with asyncio.timeout(300), Boxes(DockerSandbox(busybox_image(), namespace=namespace)) as boxes:
            made = await asyncio.gather(*(_made(boxes) for _ in range(50)))
            try:
                results = await asyncio.gather(
                    *(box.exec.command(["echo", f"{box.id} {n}"]) for box in made for n in range(4))
                )
                assert [one.stdout for one in results] == [f"{box.id} {n}\n" for box in made for n in range(4)]
                assert threading.active_count() < 40
            finally:
                await asyncio.gather(*(box.delete() for box in made))

    asyncio.run(run())


async def _made(boxes: Boxes) -> Box:
    return await boxes.create()
