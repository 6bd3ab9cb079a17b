"""What is a box to its user? An id, a name, and sub-objects for what can be done in it."""

from __future__ import annotations

from collections.abc import Mapping

from boxflow.boxes.calls import call
from boxflow.boxes.exec import Exec
from boxflow.boxes.files import Files
from boxflow.boxes.git import Git
from boxflow.errors import BoxNotFoundError
from boxflow.ports import BoxSpec, BoxStatus, Sandbox


class Box:
    """One box: `box.exec`, `box.files`, `box.git`.

    Made by `Boxes` or `Context.box`. The object is only a handle: it holds no connection, two of them may stand for the
    same box, and making one does nothing. In a workflow body each call is a step named `<box>.exec.command` and so on;
    in a step, or in an app, it acts at once.

    :ivar id: unique in its sandbox
    :ivar name: what people and the journal call it
    :ivar labels: what `Boxes.list` finds it by
    :ivar spec: how it was made, as far as the sandbox tells
    """

    def __init__(
        self, sandbox: Sandbox, *, box_id: str, name: str, spec: BoxSpec, labels: Mapping[str, str] | None = None
    ) -> None:
        self.id = box_id
        self.name = name
        self.spec = spec
        self.labels: Mapping[str, str] = dict(spec.labels if labels is None else labels)
        self.exec = Exec(sandbox, box_id=box_id, name=name)
        self.files = Files(sandbox, box_id=box_id, name=name)
        self.git = Git(sandbox, box_id=box_id, name=name)
        self._sandbox = sandbox

    def __repr__(self) -> str:
        return f"<Box {self.name!r} id={self.id!r}>"

    async def status(self) -> BoxStatus:
        """Where it stands now; `BoxStatus.DELETED` when there is none of its id."""

        async def ask() -> BoxStatus:
            try:
                return (await self._sandbox.get(self.id)).status
            except BoxNotFoundError:
                return BoxStatus.DELETED

        return await call(f"{self.name}.status", ask, type=BoxStatus)

    async def delete(self) -> None:
        """End every process in it and remove it. Deleting twice is no error."""
        await call(f"{self.name}.delete", lambda: self._sandbox.delete(self.id), type=type(None))
