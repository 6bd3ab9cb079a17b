"""What does `module:name` on a command line stand for? A workflow, or an engine."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard, cast

from boxflow import Engine, Workflow
from boxflow.cli.failures import CommandError


def load(reference: str) -> object:
    """The object that *reference* names; modules are looked for in the current directory first.

    :raises CommandError: it cannot be imported, or is not there
    """
    module_name, _, path = reference.partition(":")
    if not module_name or not path:
        raise CommandError(f"{reference!r} is not understood; write module:name, as in flow:publish")
    found: object = _imported(module_name)
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            offers = _offers(sys.modules[module_name])
            raise CommandError(f"module {module_name!r} has no {path!r}; it has {offers}") from None
    return found


def workflow_of(reference: str) -> tuple[Workflow[Any, Any], Sequence[Workflow[Any, Any]]]:
    """The workflow that *reference* names, and all that its module has: children need theirs too.

    :raises CommandError: it is something else
    """
    found = load(reference)
    if isinstance(found, Engine):
        raise CommandError(f"{reference!r} is an engine; here a workflow is needed, as module:name")
    if not _is_workflow(found):
        raise CommandError(f"{reference!r} is {_article(found)}; decorate the function with `@workflow`")
    beside = _workflows(sys.modules[reference.partition(":")[0]])
    return found, [found, *(one for one in beside if one is not found)]


def engine_of(reference: str) -> Engine:
    """The engine that *reference* names, or that the function makes which it names.

    :raises CommandError: it is something else
    """
    found = load(reference)
    if callable(found) and not isinstance(found, type) and not _is_workflow(found):
        try:
            found = cast("Callable[[], object]", found)()
        except Exception as error:  # it is the user's code
            raise CommandError(f"{reference!r} made no engine:\n{_trace(error, __file__)}") from error
    if not isinstance(found, Engine):
        raise CommandError(f"{reference!r} is {_article(found)}; name an `Engine(...)`, or a function that returns one")
    return found


def is_workflow(reference: str) -> bool:
    """Whether *reference* names a workflow."""
    return _is_workflow(load(reference))


def _is_workflow(thing: object) -> TypeGuard[Workflow[Any, Any]]:
    return isinstance(thing, Workflow)


def _imported(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise CommandError(f"there is no module {name!r} in {here!r} or where Python looks for modules") from None
        raise CommandError(f"module {name!r} cannot be imported:\n{_trace(error, importlib.__file__)}") from error
    except Exception as error:  # it is the user's code
        raise CommandError(f"module {name!r} cannot be imported:\n{_trace(error, importlib.__file__)}") from error


def _trace(error: BaseException, ours: str) -> str:
    """The traceback from the user's code on."""
    frames = traceback.extract_tb(error.__traceback__)
    hidden = {__file__, ours}
    theirs = [one for one in frames if one.filename not in hidden and not one.filename.startswith("<frozen")]
    lines = [*traceback.format_list(theirs), *traceback.format_exception_only(error)]
    return "".join(lines).rstrip()


def _workflows(module: ModuleType) -> list[Workflow[Any, Any]]:
    return list(dict.fromkeys(one for one in vars(module).values() if _is_workflow(one)))


def _offers(module: ModuleType) -> str:
    wanted = (Workflow, Engine)
    names = [name for name, value in vars(module).items() if isinstance(value, wanted)]
    return ", ".join(names) or "no workflow and no engine"


def _article(thing: object) -> str:
    kind = type(thing).__name__
    return f"an {kind}" if kind[:1].lower() in "aeiou" else f"a {kind}"
