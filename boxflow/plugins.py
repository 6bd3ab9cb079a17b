"""Which store, sandbox or harness does `"memory:"`, `"file:state"`, `"local:"` or `"claude-code"` stand for?

The core imports no backend. A URL's scheme names an entry point, so that any installed package can add its own:

    [project.entry-points."boxflow.stores"]
    mystore = "mypackage.store:MyStore"

`"mystore:"` is then `MyStore()`, and `"mystore:text"` is `MyStore("text")`; a class with a `from_url` class method gets
the whole URL instead.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from boxflow.errors import ConfigurationError
from boxflow.ports import Sandbox, Store

if TYPE_CHECKING:
    from boxflow.harness import Harness  # For agents only.

STORES = "boxflow.stores"
SANDBOXES = "boxflow.sandboxes"
HARNESSES = "boxflow.harnesses"

_NOUNS = {STORES: "store", SANDBOXES: "sandbox"}

# Ours, which no other package can take over: looking through the metadata of all that is installed takes a fifth of a
# cold start. Text, so that the core imports no backend.
_BUILT_IN = {
    STORES: {
        "memory": "boxflow_backends.memory_store:MemoryStore",
        "file": "boxflow_backends.file_store:FileStore",
    },
    SANDBOXES: {
        "local": "boxflow_backends.local_sandbox:LocalSandbox",
        "docker": "boxflow_backends.docker_sandbox:DockerSandbox",
    },
    HARNESSES: {
        "claude-code": "boxflow_backends.harnesses:ClaudeCode",
        "codex": "boxflow_backends.harnesses:Codex",
        "opencode": "boxflow_backends.harnesses:OpenCode",
        "command": "boxflow_backends.harnesses:Command",
        "sse": "boxflow_backends.harnesses:Sse",
    },
}


def resolve_store(store: Store | str) -> Store:
    """The store itself, or a new one for its URL. Nothing is opened yet.

    :raises ConfigurationError: no such scheme, or what it needs is not installed
    """
    return cast("Store", resolve(store, STORES))


def resolve_reader(url: str) -> Store:
    """A store for its URL that only looks, beside the process that owns it. Nothing is opened yet.

    A store with owners has a class method `reader`, which is called as the class is, or with the whole URL where there
    is a `from_url`. One that has none is opened as it is: many may.

    :raises ConfigurationError: no such scheme, or what it needs is not installed
    """
    return cast("Store", resolve(url, STORES, method="reader"))


def resolve_sandbox(sandbox: Sandbox | str) -> Sandbox:
    """The sandbox itself, or a new one for its URL. Nothing is connected yet.

    :raises ConfigurationError: no such scheme, or what it needs is not installed
    """
    return cast("Sandbox", resolve(sandbox, SANDBOXES))


def resolve_harness(name: str) -> Harness:
    """A new harness of that name.

    :raises ConfigurationError: no such harness, or what it needs is not installed
    """
    known = _schemes(HARNESSES, name)
    if name not in known:
        raise ConfigurationError(
            f"agent {name!r} is not known; known are {', '.join(sorted(known))}. "
            f"A package adds its own with an entry point in the group {HARNESSES!r}; or pass an instance"
        )
    return cast("Harness", _load(known[name], name, "agent")())


def resolve(target: object, group: str, *, method: str | None = None) -> object:
    """*target* itself, or what its URL stands for in the entry-point group *group*.

    :param method: the class method that makes it, where its class has one of that name
    :raises ConfigurationError: no such scheme, or what it needs is not installed, or a class instead of an instance
    """
    noun = _NOUNS.get(group, group)
    if isinstance(target, type):
        raise ConfigurationError(f"{noun}={target.__name__} is a class; pass an instance, {target.__name__}(...)")
    if not isinstance(target, str):
        return target
    scheme, colon, rest = target.partition(":")
    schemes = _schemes(group, scheme)
    if not colon or scheme not in schemes:
        raise ConfigurationError(_unknown(target, scheme, schemes, noun, group))
    factory = _load(schemes[scheme], target, noun)
    made_by = None if method is None else getattr(factory, method, None)
    from_url = getattr(factory, "from_url", None)
    if from_url is not None:
        return cast("Callable[[str], object]", made_by or from_url)(target)
    # "file:///var/state" and "file:/var/state" are one path.
    text = rest.removeprefix("//")
    make = cast("Callable[..., object]", made_by or factory)
    arguments = (text,) if text else ()
    try:
        inspect.signature(make).bind(*arguments)
    except TypeError as exc:
        what = f"{text!r} behind its colon, which it does not take" if text else f'too little; write "{scheme}:..."'
        raise ConfigurationError(f"{noun} {target!r} says {what}: {exc}") from exc
    return make(*arguments)


def _schemes(group: str, wanted: str) -> dict[str, str]:
    """Every known scheme of *group* with its `module:name`; only ours, where the *wanted* one is among them."""
    found = _BUILT_IN.get(group, {})
    if wanted in found:
        return found
    installed: dict[str, str] = {}
    from importlib.metadata import (
        entry_points,  # Imported where it is used: it doubles the time of importing this module.
    )

    for entry in entry_points(group=group):
        other = installed.setdefault(entry.name, entry.value)
        if other != entry.value:
            raise ConfigurationError(
                f"scheme {entry.name!r} of {group!r} is claimed twice, by {other!r} and {entry.value!r}; uninstall one"
            )
    return installed | found


def _load(reference: str, url: str, noun: str) -> Callable[..., Any]:
    module, _, name = reference.partition(":")
    try:
        return cast("Callable[..., Any]", getattr(importlib.import_module(module), name))
    except ImportError as exc:
        raise ConfigurationError(f"{noun} {url!r} needs something that is not installed: {exc}") from exc
    except AttributeError as exc:
        raise ConfigurationError(f"{noun} {url!r} points to {reference!r}, which does not exist") from exc


def _unknown(url: str, scheme: str, schemes: dict[str, str], noun: str, group: str) -> str:
    known = ", ".join(f'"{name}:"' for name in sorted(schemes))
    if scheme in schemes:
        return f'{noun} {url!r} lacks its colon; write "{scheme}:"'
    return (
        f"{noun} {url!r} has no known scheme; known are {known}. "
        f"A package adds its own with an entry point in the group {group!r}; or pass an instance"
    )
