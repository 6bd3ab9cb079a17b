"""What is a box in memory? Its files, its processes and jobs, and whether it stands still."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from boxflow.errors import BoxStateError
from boxflow.ports import BoxInfo, BoxSpec, BoxStatus
from boxflow.testing.fake_sandbox.box_time import BoxTime
from boxflow.testing.fake_sandbox.file_tree import HOME, JOBS, TEMPORARY, FileTree
from boxflow.testing.fake_sandbox.process import KILLED, FakeProcess

if TYPE_CHECKING:
    from boxflow.testing.fake_sandbox.jobs import FakeJob

_NAME_LABEL: Final = "boxflow.name"


class FakeBox:
    """A box as its sandbox has it, for tests to look at and to change.

    :ivar id: as its creator gave it
    :ivar spec: as it was asked for
    :ivar files: what is in it
    :ivar labels: of the box, boxflow's own among them
    """

    def __init__(
        self, box_id: str, spec: BoxSpec, labels: Mapping[str, str], time: BoxTime, files: FileTree | None = None
    ) -> None:
        self.id = box_id
        self.spec = spec
        self.labels = dict(labels)
        self.time = time
        self.created_at = time.now()
        self.files = files or FileTree(time.now)
        self.processes: list[FakeProcess] = []
        self.jobs: dict[str, FakeJob] = {}
        #: The commit of each directory that is a repository: contents by path.
        self.commits: dict[str, list[dict[str, bytes]]] = {}
        self._goes_on = asyncio.Event()
        self._goes_on.set()

    def __repr__(self) -> str:
        return f"<FakeBox {self.name!r} id={self.id!r}>"

    @property
    def name(self) -> str:
        """What people call it."""
        return self.labels.get(_NAME_LABEL, self.id)

    @property
    def env(self) -> Mapping[str, str]:
        """What every process of it finds in its environment."""
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": HOME,
            "TMPDIR": TEMPORARY,
            "BOXFLOW_BOX": self.id,
            "BOXFLOW_JOBS": JOBS,
            **self.spec.env,
        }

    def read(self, path: str) -> str:
        """The text of a file."""
        return self.files.read(path).decode()

    def write(self, path: str, content: str | bytes) -> None:
        """Write a file, making the directories above it."""
        self.files.write(path, content.encode() if isinstance(content, str) else content)

    # --- for its sandbox ----------------------------------------------------------------------------------------------

    @property
    def is_paused(self) -> bool:
        """Whether it stands still."""
        return not self._goes_on.is_set()

    def pause(self) -> None:
        """Let it stand still."""
        self._goes_on.clear()

    def resume(self) -> None:
        """Let it go on."""
        self._goes_on.set()

    async def goes_on(self) -> None:
        """Return when it does not stand still."""
        await self._goes_on.wait()  # No deadline: somebody resumes or deletes it.

    def check_running(self) -> None:
        """:raises BoxStateError: it is paused"""
        if self.is_paused:
            raise BoxStateError(f"box {self.id!r} is paused; `await box.resume()` makes it go on")

    def info(self) -> BoxInfo:
        """The box as its sandbox reports it."""
        status = BoxStatus.PAUSED if self.is_paused else BoxStatus.RUNNING
        return BoxInfo(box_id=self.id, status=status, labels=dict(self.labels), created_at=self.created_at)

    def named(self, exec_id: str) -> list[FakeProcess]:
        """The processes that were started by that name and run."""
        return [each for each in self.processes if each.exec_id == exec_id and not each.ended.done()]

    def stop(self) -> None:
        """End everything that runs in it."""
        self.resume()
        for process in self.processes:
            process.stop(KILLED)
