"""How are boxes made, found again and deleted? `Boxes`, as `engine.boxes` or alone."""

from __future__ import annotations

import re
import secrets
from collections.abc import Generator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from boxflow.boxes.box import Box
from boxflow.boxes.calls import call
from boxflow.boxes.command import Command, raise_for, run_command, shell_argv
from boxflow.boxes.shielded import finish
from boxflow.errors import SandboxError
from boxflow.model import Duration, seconds
from boxflow.plugins import resolve_sandbox
from boxflow.ports import BoxInfo, BoxSpec, Sandbox

NAME_LABEL: Final = "boxflow.name"
SPEC_LABEL: Final = "boxflow.spec"

# Labels that start so are boxflow's own (also an engine's and a run's), and no business of `box.labels`.
_OWN_LABELS: Final = "boxflow."

DELETE_TIMEOUT_S = 60.0
"""How long the end of an `async with boxes.create(...)` block may take."""

# The mark is made last: a creator that died in the middle leaves none, and the next one runs the command again.
_INIT = '[ -e "$HOME/.boxflow-init" ] && exit 0; "$@" && : > "$HOME/.boxflow-init"'


class Boxes:
    """The boxes of one sandbox: `async with Boxes("local:") as boxes:`, or `engine.boxes`.

    Leaving the block disconnects; it deletes no box. Use `async with boxes.create(...)` for boxes that must not outlive
    a block.

    :param sandbox: a sandbox, or its URL: `"local:"`, `"local:/some/directory"`, `"docker:"`
    :raises ConfigurationError: the URL stands for nothing known
    """

    def __init__(self, sandbox: Sandbox | str = "local:") -> None:
        self.sandbox: Sandbox = resolve_sandbox(sandbox)

    async def __aenter__(self) -> Self:
        """Connect; :raises SandboxUnavailableError: the sandbox does not answer."""
        await self.sandbox.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Disconnect. Boxes stay."""
        await self.sandbox.__aexit__(kind, error, traceback)

    def create(
        self,
        name: str = "box",
        *,
        image: str | None = None,
        env: Mapping[str, str] | None = None,
        init: str | None = None,
        labels: Mapping[str, str] | None = None,
        ttl: Duration | None = None,
        keep: bool = False,
        box_id: str | None = None,
    ) -> PendingBox:
        """A box that is about to be made: await it, or enter it.

        `box = await boxes.create("a")` leaves deleting to you. `async with boxes.create("a") as box:` deletes it at the
        end of the block, whatever ends it, unless *keep*.

        :param name: what people call it; several boxes may share one
        :param image: what it is made from; the local sandbox has only the host and ignores it
        :param env: environment of every command in the box
        :param init: a command run once, right after creation; when it fails the box is deleted
        :param labels: found by `list`
        :param ttl: how long it may live before a reaper deletes it
        :param box_id: creating twice with one id gives the same box; a new one unless given
        :raises CommandFailedError: *init* failed (on awaiting)
        """
        spec = BoxSpec(
            image=image,
            env=dict(env or {}),
            init=init,
            labels=dict(labels or {}),
            ttl_s=None if ttl is None else seconds(ttl),
            keep=keep,
        )
        return PendingBox(self.sandbox, spec, box_id=box_id, name=name)

    async def get(self, box_id: str) -> Box:
        """The box of that id, whoever made it. :raises BoxNotFoundError: there is none"""
        return _handle(self.sandbox, await call("boxes.get", lambda: self.sandbox.get(box_id), type=BoxInfo))

    async def list(self, labels: Mapping[str, str] | None = None) -> list[Box]:
        """The boxes that carry all of *labels*; all boxes unless given."""

        async def find() -> Sequence[BoxInfo]:
            return tuple(await self.sandbox.list(labels or {}))

        return [_handle(self.sandbox, info) for info in await call("boxes.list", find, type=tuple[BoxInfo, ...])]

    async def delete(self, box_id: str) -> None:
        """End every process of the box and remove it. No error when there is none."""
        await call("boxes.delete", lambda: self.sandbox.delete(box_id), type=type(None))


class PendingBox:
    """A box that is about to be made: await it, or enter it."""

    def __init__(self, sandbox: Sandbox, spec: BoxSpec, *, box_id: str | None, name: str) -> None:
        self._sandbox = sandbox
        self._spec = spec
        self._asked_id = box_id
        self._name = name
        self._box: Box | None = None

    def __await__(self) -> Generator[Any, None, Box]:
        # An id that the caller chose may be that of a box with work in it: what fails now is no reason to delete it.
        return self._create(delete_on_failure=self._asked_id is None).__await__()

    async def __aenter__(self) -> Box:
        self._box = await self._create(delete_on_failure=self._asked_id is None or not self._spec.keep)
        return self._box

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._box is not None and not self._spec.keep:
            box_id = self._box.id
            await call(f"{self._name}.delete", lambda: _delete(self._sandbox, box_id), type=type(None))

    async def _create(self, *, delete_on_failure: bool) -> Box:
        async def make() -> BoxInfo:
            # Made here and not before: in a workflow body the id that counts is the one in the journal.
            box_id = self._asked_id or _new_id(self._name)
            try:
                return await make_box(self._sandbox, self._spec, box_id=box_id, name=self._name)
            except BaseException:
                if delete_on_failure:
                    await _delete(self._sandbox, box_id)
                raise

        info = await call(f"{self._name}.create", make, type=BoxInfo)
        return Box(self._sandbox, box_id=info.box_id, name=self._name, spec=self._spec)


async def make_box(
    sandbox: Sandbox, spec: BoxSpec, *, box_id: str, name: str, labels: Mapping[str, str] | None = None
) -> BoxInfo:
    """Make a box and run its `init` command, or find the box that has this id. Acts at once, wherever it is called.

    Safe to repeat after a crash at any point: the id decides, and `init` runs until it has succeeded once. When it
    fails the box is deleted.

    :param labels: on top of those of *spec*
    :raises CommandFailedError: `init` exited with another status than 0
    :raises CommandTimeoutError: `init` took longer than an hour
    """
    kept = {**spec.labels, **(labels or {}), NAME_LABEL: name, SPEC_LABEL: _spec_label(spec)}
    info = await sandbox.create(box_id, spec, kept)
    if spec.init is None:
        return info
    command = Command(argv=("sh", "-c", _INIT, "init", *shell_argv(spec.init)))
    result = await run_command(sandbox, box_id, command)
    try:
        raise_for(result, spec.init, timeout_s=command.timeout_s, check=True)
    except SandboxError:
        await _delete(sandbox, box_id)
        raise
    return info


async def _delete(sandbox: Sandbox, box_id: str) -> None:
    await finish(sandbox.delete(box_id), timeout_s=DELETE_TIMEOUT_S)


def _handle(sandbox: Sandbox, info: BoxInfo) -> Box:
    labels = {key: value for key, value in info.labels.items() if not key.startswith(_OWN_LABELS)}
    spec = _spec_of(info.labels.get(SPEC_LABEL, "{}"), labels)
    return Box(sandbox, box_id=info.box_id, name=info.labels.get(NAME_LABEL, info.box_id), spec=spec, labels=labels)


class _KeptSpec(msgspec.Struct, omit_defaults=True):
    """What of a `BoxSpec` travels in a label: no `env`, since labels are shown to everybody and secrets live there."""

    image: str | None = None
    init: str | None = None
    ttl_s: float | None = None
    keep: bool = False


def _spec_label(spec: BoxSpec) -> str:
    kept = _KeptSpec(image=spec.image, init=spec.init, ttl_s=spec.ttl_s, keep=spec.keep)
    return msgspec.json.encode(kept).decode()


def _spec_of(label: str, labels: Mapping[str, str]) -> BoxSpec:
    kept = msgspec.json.decode(label, type=_KeptSpec)
    return BoxSpec(image=kept.image, init=kept.init, ttl_s=kept.ttl_s, keep=kept.keep, labels=labels)


def _new_id(name: str) -> str:
    """A new id that still shows the name: `"port to go"` becomes `"port-to-go-4f9a..."`."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40] or "box"
    return f"{readable}-{secrets.token_hex(6)}"
