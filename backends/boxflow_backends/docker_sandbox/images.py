"""From which image is a box made? Found, pulled or built; and prepared once, since images know nothing of boxes."""

from __future__ import annotations

import asyncio
import collections
import io
import time
from collections.abc import Mapping
from typing import Any, Final

import attrs

from boxflow.errors import ImageNotFoundError, SandboxError, SnapshotNotFoundError
from boxflow.ports import BoxSpec
from boxflow_backends.docker_sandbox.client import Daemon, RefusedError
from boxflow_backends.docker_sandbox.layout import Layout, laid_out, user_of
from boxflow_backends.docker_sandbox.record import USER_LABEL, BoxUser, digest

PREPARED: Final = "boxflow/prepared"
BUILT: Final = "boxflow/built"
SNAPSHOT: Final = "boxflow/snapshot"

# Part of a prepared image's name: raise it when `layout` changes, and images are prepared anew.
_LAYOUT: Final = "1"

_PREPARING_LABEL: Final = "boxflow.docker.preparing"

# Preparing takes a quarter of a second. Whoever has been at it for longer has died, and left a container behind.
_ABANDONED_S: Final = 60.0

_BUILD_LINES: Final = 20


@attrs.frozen(kw_only=True)
class ReadyImage:
    """An image that boxes can be made from as it is."""

    reference: str
    user: BoxUser


class Images:
    """The images of one engine.

    :param default: what a box is made from when its spec does not say
    """

    def __init__(self, daemon: Daemon, *, default: str) -> None:
        self._daemon = daemon
        self._default = default
        self._locks: collections.defaultdict[str, asyncio.Lock] = collections.defaultdict(asyncio.Lock)

    async def ready(self, spec: BoxSpec, namespace: str) -> ReadyImage:
        """What the box of *spec* is made from; there, and prepared, on return.

        :raises SnapshotNotFoundError: its snapshot is not there
        :raises ImageNotFoundError: its image is not there and cannot be had, or cannot be built
        :raises SandboxError: the image has no such user as *spec* names
        """
        if spec.snapshot is not None:
            return await self._of_snapshot(spec.snapshot, namespace)
        if spec.dockerfile is not None:
            inspected = await self._built(spec.dockerfile)
        else:
            inspected = await self._pulled(spec.image or self._default)
        return await self._prepared(str(inspected["Id"]), spec.user)

    async def find(self, reference: str) -> Mapping[str, Any] | None:
        """Docker's description of an image; None when there is none."""
        try:
            found: Mapping[str, Any] = await self._daemon.read("inspect_image", reference)
        except RefusedError as exc:
            if exc.status == 404:
                return None
            raise
        return found

    async def _of_snapshot(self, snapshot_id: str, namespace: str) -> ReadyImage:
        reference = snapshot_reference(namespace, snapshot_id)
        inspected = await self.find(reference)
        if inspected is None:
            raise SnapshotNotFoundError(snapshot_id)
        return ReadyImage(reference=reference, user=_user_in(inspected))

    # --- found, pulled, built ----------------------------------------------------------------------------------

    async def _pulled(self, name: str) -> Mapping[str, Any]:
        if (found := await self._find_named(name)) is not None:
            return found
        async with self._locks[f"pull {name}"]:
            if (found := await self._find_named(name)) is not None:
                return found
            try:
                told = await self._daemon.slow_work("pull", lambda client: str(client.pull(name)))
            except RefusedError as exc:
                raise ImageNotFoundError(
                    f"image {name!r} is not on this machine and cannot be pulled: {exc.words}; check its name, or "
                    "build it, or pull it by hand"
                ) from exc
            if (found := await self._find_named(name)) is not None:
                return found
            raise ImageNotFoundError(f"image {name!r} is not on this machine and cannot be pulled: {told[-500:]}")

    async def _find_named(self, name: str) -> Mapping[str, Any] | None:
        try:
            return await self.find(name)
        except RefusedError as exc:
            raise ImageNotFoundError(f"{name!r} cannot be an image: {exc.words}") from exc

    async def _built(self, dockerfile: str) -> Mapping[str, Any]:
        reference = f"{BUILT}:{digest(dockerfile)}"
        async with self._locks[reference]:
            if (found := await self.find(reference)) is not None:
                return found
            try:
                await self._daemon.slow_work("build an image", lambda client: _build(client, dockerfile, reference))
            except RefusedError as exc:
                raise ImageNotFoundError(f"an image cannot be built from its Dockerfile: {exc.words}") from exc
            if (found := await self.find(reference)) is not None:
                return found
            raise ImageNotFoundError("an image was built from a Dockerfile, and is gone already; try again")

    # --- prepared ----------------------------------------------------------------------------------------------

    async def _prepared(self, image_id: str, user: str | None) -> ReadyImage:
        key = digest(_LAYOUT, image_id, user or "")
        reference = f"{PREPARED}:{key}"
        async with self._locks[reference]:
            until = time.monotonic() + 2 * _ABANDONED_S
            while time.monotonic() < until:
                if (found := await self.find(reference)) is not None:
                    return ReadyImage(reference=reference, user=_user_in(found))
                # The container's name is the lock between engines: only one can have it.
                if not await self._daemon.work(
                    "prepare an image", lambda client: _prepare(client, image_id, key, user)
                ):
                    await asyncio.sleep(0.1)
            raise SandboxError(f"image {image_id!r} is being prepared by somebody else, who does not get done")


def snapshot_reference(namespace: str, snapshot_id: str) -> str:
    """The tag of a snapshot's image."""
    return f"{SNAPSHOT}:{digest(namespace, snapshot_id)}"


def _user_in(inspected: Mapping[str, Any]) -> BoxUser:
    labels: Mapping[str, str] = inspected["Config"].get("Labels") or {}
    try:
        return BoxUser.from_json(labels[USER_LABEL])
    except (KeyError, ValueError) as exc:
        tags = inspected.get("RepoTags")
        raise SandboxError(f"image {tags!r} was not prepared for boxes; remove it with `docker rmi`") from exc


def _build(client: Any, dockerfile: str, reference: str) -> None:
    """In a thread: one build with the classic builder, and no other context than the text."""
    said: collections.deque[str] = collections.deque(maxlen=_BUILD_LINES)
    # Else intermediate containers of a failed build stay behind.
    kept = {"rm": True, "forcerm": True}
    for entry in client.build(fileobj=io.BytesIO(dockerfile.encode()), tag=reference, decode=True, **kept):
        said.extend(str(entry.get("stream") or "").splitlines())
        if "error" in entry:
            tail = "\n  ".join(line for line in (*said, str(entry["error"])) if line.strip())
            raise ImageNotFoundError(f"an image cannot be built from its Dockerfile:\n  {tail}")


def _prepare(client: Any, image_id: str, key: str, user: str | None) -> bool:
    """In a thread: prepare an image; False when somebody else is at it.

    Made from a container that is never started, so nothing of the image runs.
    """
    name = f"boxflow-preparing-{key}"
    try:
        container = client.create_container(
            image_id,
            name=name,
            entrypoint=["/bin/true"],
            command=[],
            labels={_PREPARING_LABEL: repr(time.time())},
            host_config=client.create_host_config(network_mode="none"),
        )["Id"]
    except Exception as exc:
        if getattr(exc, "status_code", None) != 409:
            raise
        _clear_away_if_abandoned(client, name)
        return False
    try:
        layout = Layout.read(client, container)
        box_user = user_of(user, layout.passwd, layout.group)
        client.put_archive(container, "/", laid_out(layout, box_user))
        labels = {USER_LABEL: box_user.to_json(), _PREPARING_LABEL: ""}
        client.commit(container, repository=PREPARED, tag=key, conf={"Labels": labels})
    finally:
        client.remove_container(container, force=True, v=True)
    return True


def _clear_away_if_abandoned(client: Any, name: str) -> None:
    try:
        labels = client.inspect_container(name)["Config"]["Labels"]
        if time.time() - float(labels[_PREPARING_LABEL]) > _ABANDONED_S:
            client.remove_container(name, force=True, v=True)
    except Exception as exc:
        # Done, or taken away by another, meanwhile.
        if getattr(exc, "status_code", None) not in (404, 409):
            raise
