"""What stands in for the world of an engine under test? Steps, children, HTTP requests, and who answers a wait."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs

from boxflow.codec import ANY, decode_value
from boxflow.context import Context, current_step, step
from boxflow.journal import MailWait, StepCall
from boxflow.model import RunRecord
from boxflow.testing.errors import UnansweredError
from boxflow.testing.rules import Rule, Rules, answered, carried_out
from boxflow.web import Response
from boxflow.workflow import Workflow

_OCCURRENCE: Final = re.compile(r"#\d+$")


@attrs.frozen(kw_only=True)
class Call:
    """One call of a step's function, or of what stands in for it or for a child.

    :param name: the step's, or that of the `ctx.invoke`
    :param args: the step's arguments; of a child, its payload
    :param idempotency_key: the same for all attempts of one step
    """

    run_id: str
    name: str
    occurrence: int
    attempt: int
    args: tuple[Any, ...]
    idempotency_key: str


@attrs.frozen(kw_only=True)
class Post:
    """A result that was told to a URL outside: `box.agent.run(..., webhook="https://...")`."""

    url: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return decode_value(self.body, ANY)


class StandIns:
    """The `Seams` of a scripted world."""

    def __init__(self, seed: int, known: Iterable[str]) -> None:
        self.calls: list[Call] = []
        self.posts: list[Post] = []
        self.replaced = Rules()
        self.answers = Rules()
        #: Told of a wait that there is an answer to.
        self.on_wait: Callable[[str, MailWait, Rule], None] | None = None
        #: Told of a run that somebody begins to wait for.
        self.on_follower: Callable[[str], None] | None = None
        #: Why there will be no news of a run, for who waits for some.
        self.no_news: dict[str, Exception] = {}
        self._known = set(known)
        self._random = random.Random(seed)
        self._answered: set[tuple[str, str, int]] = set()

    # --- boxflow.seams.Seams ------------------------------------------------------------------------------------------

    def workflow(self, workflow: Workflow[Any, Any] | str, version: str | None) -> Workflow[Any, Any] | None:
        """Any workflow that is given itself, and one for a name of which only a stand-in is known."""
        if isinstance(workflow, Workflow):
            self._known.add(workflow.name)
            return workflow
        if workflow in self._known or self.replaced.find(workflow) is None:
            return None
        self._known.add(workflow)

        async def unknown(ctx: Context, payload: Any) -> Any:
            raise AssertionError("its stand-in runs in its place")

        return Workflow(unknown, name=workflow, version=version or "")

    def body(self, record: RunRecord, found: Workflow[Any, Any]) -> Workflow[Any, Any]:
        """The child itself, or a workflow of one step that stands in for it."""
        if record.parent is None:
            return found
        name = _OCCURRENCE.sub("", record.run_id.removeprefix(f"{record.parent}/"))
        rule = self.replaced.find(name) or self.replaced.find(found.name)
        if rule is None:
            return found
        child = _Child(self.calls, name, rule)

        async def stand_in(ctx: Context, payload: Any) -> Any:
            return await ctx.run("stand-in", child, payload, type=found.return_type)

        stand_in.__annotations__["return"] = found.return_type
        return Workflow(stand_in, name=found.name, version=found.version, timeout=found.timeout_s)

    def function(self, run_id: str, call: StepCall, number: int) -> Callable[..., Any]:
        """The step's function or what stands in for it, run on the loop, and recorded."""
        if isinstance(call.fn, _Child):
            return call.fn
        name, occurrence = call.key
        is_ours = getattr(call.fn, "__module__", "").startswith("boxflow.")
        # A pattern such as "*" means the steps of the workflow, not those by which boxes are made and deleted.
        rule = self.replaced.find(name, exact=is_ours)
        if is_ours and rule is None:
            return call.fn

        async def recorded(*args: Any) -> Any:
            key = step().idempotency_key
            self.calls.append(
                Call(run_id=run_id, name=name, occurrence=occurrence, attempt=number, args=args, idempotency_key=key)
            )
            return await (carried_out(call.fn, args) if rule is None else rule.result(*args))

        return recorded

    def begun(self, run_id: str, wait: MailWait) -> None:
        """Has the wait answered, once, where there is an answer."""
        rule = self.answers.find(wait.key[0])
        which = (run_id, *wait.key)
        if rule is None or which in self._answered or self.on_wait is None:
            return
        # A run that was thrown out of memory waits again when it is back.
        self._answered.add(which)
        self.on_wait(run_id, wait, rule)

    def followed(self, run_id: str) -> None:
        """:raises StuckError: the run goes on by nothing that is known"""
        error = self.no_news.pop(run_id, None)
        if error is not None:
            raise error
        if self.on_follower is not None:
            self.on_follower(run_id)

    def jitter(self) -> float:
        """Of the world's seed."""
        return self._random.random()

    async def call(self, url: str, method: str, headers: Mapping[str, str], body: bytes | None) -> Response:
        """Keep what the engine tells by itself.

        :raises UnansweredError: it is a `ctx.call`; what answers that stands in for its step
        """
        running = current_step.get(None)
        if running is None:
            self.posts.append(Post(url=url, headers=dict(headers), body=body or b""))
            return Response(status=200)
        name = running[1]
        raise UnansweredError(
            f"ctx.call({name!r}) would send {method} {url} to the network; answer it: "
            f"world.replace({name!r}, Response(status=200, body=b'...'))"
        )


@attrs.frozen
class _Child:
    """What a child's stand-in does."""

    calls: list[Call]
    name: str
    rule: Rule

    async def __call__(self, payload: Any) -> Any:
        info = step()
        self.calls.append(
            Call(
                run_id=info.run_id,
                name=self.name,
                occurrence=1,
                attempt=info.attempt,
                args=(payload,),
                idempotency_key=info.idempotency_key,
            )
        )
        self.rule.uses += 1
        return await answered(self.rule.answer, payload)
