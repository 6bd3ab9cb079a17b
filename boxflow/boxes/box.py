"""What is a box to its user? An id, a name, and sub-objects for what can be done in it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from boxflow.boxes.calls import call, durable_call, refuse_in_body
from boxflow.boxes.models import Models
from boxflow.boxes.snapshots import NAME_LABEL, Snapshot
from boxflow.errors import BoxNotFoundError
from boxflow.ports import BoxSpec, BoxStatus, Sandbox, SnapshotInfo

if TYPE_CHECKING:
    from boxflow.boxes.agent import Agent
    from boxflow.boxes.exec import Exec
    from boxflow.boxes.files import Files
    from boxflow.boxes.git import Git
    from boxflow.boxes.jobs import Jobs


class Box:
    """One box: `box.exec`, `box.jobs`, `box.files`, `box.git`, `box.agent`.

    Made by `Boxes` or `Context.box`. The object is only a handle: it holds no connection, two of them may stand for the
    same box, and making one does nothing. In a workflow body each call is a step named `<box>.exec.command` and so on;
    in a step, or in an app, it acts at once.

    :ivar id: unique in its sandbox
    :ivar name: what people and the journal call it
    :ivar labels: what `Boxes.list` finds it by
    :ivar spec: how it was made, as far as the sandbox tells
    :param models: how its agent reaches its model; by no gateway when None
    """

    def __init__(
        self,
        sandbox: Sandbox,
        *,
        box_id: str,
        name: str,
        spec: BoxSpec,
        labels: Mapping[str, str] | None = None,
        models: Models | None = None,
    ) -> None:
        self.id = box_id
        self.name = name
        self.spec = spec
        self.labels: Mapping[str, str] = dict(spec.labels if labels is None else labels)
        self._sandbox = sandbox
        self._models = models or Models()

    def __repr__(self) -> str:
        return f"<Box {self.name!r} id={self.id!r}>"

    # --- what can be done in it ---------------------------------------------------------------------------------------

    # Each loads its modules when it is first used: `import boxflow`, and an engine without boxes, do without them.

    @cached_property
    def exec(self) -> Exec:
        """Commands, code and sessions."""
        from boxflow.boxes.exec import Exec

        return Exec(self._sandbox, box_id=self.id, name=self.name)

    @cached_property
    def jobs(self) -> Jobs:
        """Commands that go on in the background."""
        from boxflow.boxes.jobs import Jobs

        return Jobs(self._sandbox, box_id=self.id, name=self.name)

    @cached_property
    def files(self) -> Files:
        """Its files."""
        from boxflow.boxes.files import Files

        return Files(self._sandbox, box_id=self.id, name=self.name)

    @cached_property
    def git(self) -> Git:
        """The repository in it."""
        from boxflow.boxes.git import Git

        return Git(self._sandbox, box_id=self.id, name=self.name)

    @cached_property
    def agent(self) -> Agent:
        """The coding agent that works in it."""
        from boxflow.boxes.agent import Agent

        return Agent(self._sandbox, self._models, box_id=self.id, name=self.name, spec=self.spec)

    # --- the box itself -----------------------------------------------------------------------------------------------

    async def status(self) -> BoxStatus:
        """Where it stands now; `BoxStatus.DELETED` when there is none of its id."""

        async def ask() -> BoxStatus:
            try:
                return (await self._sandbox.get(self.id)).status
            except BoxNotFoundError:
                return BoxStatus.DELETED

        return await call(f"{self.name}.status", ask, type=BoxStatus)

    async def pause(self) -> None:
        """Freeze every process in it; files stay. Nothing can be started until `resume`. Pausing twice is no error.

        :raises NotSupportedError: this sandbox cannot
        """
        await call(f"{self.name}.pause", lambda: self._sandbox.pause(self.id), type=type(None))

    async def resume(self) -> None:
        """Let it go on when it is paused; start it again, with its files, when it was stopped."""
        await call(f"{self.name}.resume", lambda: self._sandbox.resume(self.id), type=type(None))

    async def snapshot(self, name: str | None = None, *, labels: Mapping[str, str] | None = None) -> Snapshot:
        """Keep its files as they are now: `boxes.create(..., snapshot=...)` makes boxes that begin with them.

        A snapshot holds whatever the box wrote, secrets too. It stays until it is deleted, also when the box is gone.

        :param name: what people call it; the box's name unless given
        :raises NotSupportedError: this sandbox cannot
        """
        called = name or self.name

        async def keep() -> SnapshotInfo:
            durable = durable_call.get()
            # The same after a crash: then it is not made twice.
            made_of = secrets.token_bytes(16) if durable is None else f"{self.id} {durable.key}".encode()
            snapshot_id = f"snap-{hashlib.sha256(made_of).hexdigest()[:24]}"
            return await self._sandbox.snapshot(self.id, snapshot_id, {**(labels or {}), NAME_LABEL: called})

        return Snapshot(self._sandbox, await call(f"{self.name}.snapshot", keep, type=SnapshotInfo))

    async def url(self, port: int) -> str:
        """`http://127.0.0.1:N`, from which this machine reaches what listens on *port* of the box's own loopback.

        Valid while its sandbox is connected; ask again after a restart.

        :raises NotDurableError: in a workflow body, which outlives the URL; ask for it in a step
        """
        refuse_in_body("box.url", "it is valid for this life of the engine only: ask for it in a step")
        if not 0 < port < 65536:
            raise ValueError(f"port {port} must be between 1 and 65535")
        return await self._sandbox.url(self.id, port)

    async def delete(self) -> None:
        """End every process in it and remove it. Deleting twice is no error."""
        await call(f"{self.name}.delete", lambda: self._sandbox.delete(self.id), type=type(None))
