"""Does new code still fit the histories of runs that old code has begun? `assert_replays`, for files that are kept."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import aiofiles
import aiofiles.os

from boxflow.engine import Engine
from boxflow.errors import RunDivergedError
from boxflow.history_file import History, dump_history, load_history, read_history
from boxflow.history_replay import replay_history
from boxflow.ports import Store
from boxflow.testing.errors import WorldError
from boxflow.workflow import Workflow

Histories: TypeAlias = str | Path | bytes | History
"""A history file, a directory of them, or what is in one."""

Workflows: TypeAlias = Workflow[Any, Any] | Iterable[Workflow[Any, Any]]


class ReplayError(AssertionError):
    """The code of a workflow does not fit a history: a run that stands there would diverge.

    :ivar run_id: whose history it is
    """

    def __init__(self, message: str, *, run_id: str) -> None:
        super().__init__(message)
        self.run_id = run_id


async def save_history(source: Engine | Store, run_id: str, path: str | Path) -> None:
    """Write the history of a run to a file, for `assert_replays`: from an engine, or from a store that is open.

    :raises RunNotFoundError: no such run
    """
    store = source.store if isinstance(source, Engine) else source
    data = dump_history(await read_history(store, run_id))
    path = Path(path)
    # Beside it first: a file that is there has all of it.
    beside = path.with_name(f".{path.name}.new")
    async with aiofiles.open(beside, "wb") as file:
        await file.write(data)
    await aiofiles.os.replace(beside, path)


def assert_replays(histories: Histories, workflow: Workflows) -> None:
    """Rebuild the body of each history with the code of *workflow*, and see that every recorded outcome has its place.

    Nothing is executed. A plain function, for tests of every kind.

    :param histories: a history file (`boxflow export` and `save_history` write them), a directory with such files
        (`*.json`), or one's content
    :param workflow: the workflow, or all that the histories are of
    :raises ReplayError: the code does not fit; it shows which outcome has no place, and what the code waits for instead
    :raises HistoryFormatError: it is no history
    :raises WorkflowNotFoundError: it is of another workflow, or of another version of it
    :raises WorldError: there is no history in that directory
    """
    workflows = [workflow] if isinstance(workflow, Workflow) else list(workflow)
    for where, history in _histories(histories):
        try:
            replay_history(history, workflows)
        except RunDivergedError as error:
            raise ReplayError(f"{where}{error}", run_id=history.record.run_id) from None


def _histories(given: Histories) -> list[tuple[str, History]]:
    if isinstance(given, History):
        return [("", given)]
    if isinstance(given, bytes):
        return [("", load_history(given))]
    path = Path(given)
    paths = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not paths:
        raise WorldError(f"the directory {str(path)!r} holds no history; write one there with `save_history`")
    return [(f"{each}: ", load_history(each.read_bytes())) for each in paths]
