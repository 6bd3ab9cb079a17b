"""Which workflows does an engine have? By name, several versions of one side by side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from boxflow.errors import ConfigurationError, DuplicateWorkflowError, WorkflowNotFoundError
from boxflow.workflow import Workflow, version_order


class Registry:
    """The workflows of one engine.

    :raises DuplicateWorkflowError: two share one name and one version
    """

    def __init__(self, workflows: Iterable[Workflow[Any, Any]]) -> None:
        self._versions: dict[str, dict[str, Workflow[Any, Any]]] = {}
        for each in workflows:
            self.add(each)

    def add(self, each: Workflow[Any, Any]) -> None:
        """Take *each*, too; nothing when it is here.

        :raises DuplicateWorkflowError: another one has its name and version
        """
        if not isinstance(each, Workflow):  # pyright: ignore[reportUnnecessaryIsInstance] # callers may be untyped
            raise ConfigurationError(f"{each!r} is not a workflow; decorate the function with `@workflow`")
        versions = self._versions.setdefault(each.name, {})
        other = versions.setdefault(each.version, each)
        if other is not each:
            raise DuplicateWorkflowError(
                f"two workflows are called {each.title}: {_place(other)} and {_place(each)}; "
                "give one another name=, or another version="
            )

    def find(self, workflow: Workflow[Any, Any] | str, version: str | None = None) -> Workflow[Any, Any]:
        """That very workflow, or the given, else the newest, version of a name.

        :raises WorkflowNotFoundError: it is not registered
        """
        if isinstance(workflow, Workflow):
            name, version = workflow.name, workflow.version
        else:
            name = workflow
        versions = self._versions.get(name, {})
        if version is None:
            found = versions[max(versions, key=version_order)] if versions else None
        else:
            found = versions.get(version)
        if found is None or (isinstance(workflow, Workflow) and found is not workflow):
            known = ", ".join(each.title for group in self._versions.values() for each in group.values()) or "none"
            what = repr(name) + (f" version {version!r}" if version else "")
            raise WorkflowNotFoundError(
                f"workflow {what} is not registered with this engine, which has {known}; add it to Engine([...])"
            )
        return found

    def get(self, name: str, version: str) -> Workflow[Any, Any] | None:
        """That version of that name, or None."""
        return self._versions.get(name, {}).get(version)


def _place(workflow: Workflow[Any, Any]) -> str:
    code = workflow.function.__code__
    return f"{workflow.__qualname__} ({code.co_filename}:{code.co_firstlineno})"
