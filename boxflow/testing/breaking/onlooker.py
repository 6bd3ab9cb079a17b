"""Which steps run, and does one run that must not? Seams in front of a world's own, that see each call of a step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import attrs

from boxflow.context import step
from boxflow.journal import StepCall
from boxflow.model import Outcome, StepDone, StepFailed, describe
from boxflow.seams import Seams
from boxflow.testing.rules import carried_out
from boxflow.web import Response
from boxflow.workflow import Workflow

Key = tuple[str, str, int]
"""A step: run, name, occurrence."""


@attrs.define
class Past:
    """What all lives of one run have done."""

    #: Steps that have their outcome.
    settled: set[Key] = attrs.field(factory=set[Key])
    #: Attempts of `at_most_once` steps that were begun.
    begun_once: set[tuple[Key, int]] = attrs.field(factory=set[tuple[Key, int]])
    #: Idempotency keys of the steps that were performed, and how often.
    performed: dict[str, int] = attrs.field(factory=dict[str, int])
    #: Workflows that were started as children: in life, a program has all of its code from the start.
    workflows: list[Workflow[Any, Any]] = attrs.field(factory=list[Workflow[Any, Any]])
    #: Promises of the engine that were broken.
    broken: list[str] = attrs.field(factory=list[str])

    def note(self, run_id: str, outcomes: tuple[Outcome, ...]) -> None:
        """*outcomes* were recorded."""
        for outcome in outcomes:
            if isinstance(outcome, StepDone | StepFailed):
                self.settled.add((run_id, outcome.name, outcome.occurrence))


class Around(Protocol):
    """What is done around each step."""

    async def __call__(self, key: Key, call: StepCall, number: int, perform: Callable[[], Awaitable[Any]], /) -> Any:
        """Perform the step, and return what it returns."""
        ...


class Onlooker:
    """`Seams` that see each step, and leave everything else to *seams*."""

    def __init__(self, seams: Seams, past: Past, around: Around) -> None:
        self._seams = seams
        self._past = past
        self._around = around
        self.body = seams.body
        self.begun = seams.begun
        self.followed = seams.followed
        self.jitter = seams.jitter

    def workflow(self, workflow: Workflow[Any, Any] | str, version: str | None) -> Workflow[Any, Any] | None:
        """As the world finds it."""
        if isinstance(workflow, Workflow) and workflow not in self._past.workflows:
            self._past.workflows.append(workflow)
        return self._seams.workflow(workflow, version)

    def function(self, run_id: str, call: StepCall, number: int) -> Callable[..., Any]:
        """The step's function, seen when it is called."""
        function, key = self._seams.function(run_id, call, number), (run_id, *call.key)

        async def seen(*args: Any) -> Any:
            self._see(key, call, number)
            return await self._around(key, call, number, lambda: carried_out(function, args))

        return seen

    def _see(self, key: Key, call: StepCall, number: int) -> None:
        idempotency_key = step().idempotency_key
        self._past.performed[idempotency_key] = self._past.performed.get(idempotency_key, 0) + 1
        title = f"step {describe(key[1], key[2])} of run {key[0]!r}"
        if key in self._past.settled:
            self._past.broken.append(f"{title} ran again, although its outcome was recorded")
        if call.at_most_once:
            if (key, number) in self._past.begun_once:
                self._past.broken.append(f"{title} is `at_most_once`, and its attempt {number} ran again")
            self._past.begun_once.add((key, number))

    async def call(self, url: str, method: str, headers: Mapping[str, str], body: bytes | None) -> Response:
        """As the world answers it."""
        return await self._seams.call(url, method, headers, body)
