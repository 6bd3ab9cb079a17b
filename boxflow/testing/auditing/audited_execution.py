"""Is a body the same whenever it is rebuilt? An execution that rebuilds itself after its outcomes, and compares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import CodeType
from typing import Any

import attrs

from boxflow.codec import decode_value, encode_value
from boxflow.context import Services
from boxflow.errors import DivergenceError, NotDurableError
from boxflow.execution import Execution
from boxflow.journal import Key
from boxflow.loop import WorkflowLoop
from boxflow.model import Outcome, RunRecord
from boxflow.testing.auditing.changed_world import ChangedWorld
from boxflow.testing.auditing.direct_reads import DirectRead, Watch
from boxflow.testing.auditing.sameness import argument_text, difference, waits_for
from boxflow.testing.auditing.set_orders import with_other_set_orders
from boxflow.testing.auditing.start_globals import StartGlobals
from boxflow.workflow import Workflow

MOST_PATHS = 10_000
"""How many ways through bodies are remembered as looked at."""

_PATHS: set[tuple[CodeType, tuple[tuple[str, ...], ...]]] = set()
"""Ways through bodies that read nothing: the next run that takes one need not be looked at as closely."""


class AuditError(NotDurableError):
    """A workflow body has other inputs than its payload and its journal.

    `.reads` has the lines that read the world, as far as they were found.
    """

    def __init__(self, message: str, *, run_id: str, reads: Sequence[DirectRead] = ()) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.reads = tuple(reads)


@attrs.frozen
class _Difference:
    """How a rebuilt body was another, and after how many outcomes."""

    position: int
    what: str
    where: tuple[str, ...] = ()


class AuditedExecution(Execution):
    """An execution that is held to the law: what the body does follows from its payload and its journal."""

    # A subclass, against the habit of this house: what is audited is exactly `begin` and `deliver`, live and on replay.

    def __init__(
        self,
        record: RunRecord,
        workflow: Workflow[Any, Any],
        payload: Any,
        services: Services,
        *,
        drain: Callable[[WorkflowLoop], None] = WorkflowLoop.drain,
        found: Callable[[AuditError], None] | None = None,
    ) -> None:
        super().__init__(record, workflow, payload, services, drain=drain)
        self._services = services
        self._found = found
        # Encoded before the body can change it.
        self._first_payload = bytes(record.payload)
        if record.payload_blob is not None:
            self._first_payload = encode_value(payload, workflow.payload_type)
        self._outside = StartGlobals.of(workflow.function)
        self._delivered: list[Outcome] = []
        #: What the body waited for after each outcome, from none on.
        self._waited: list[tuple[str, ...]] = []
        #: What each call was given.
        self._given: dict[Key, str] = {}
        #: A second body, fed with the same a moment later.
        self._twin = self._another(workflow.function)
        #: After how many outcomes the body is rebuilt next: after twice as many each time.
        self._next_rebuild = 3
        #: How many outcomes had been delivered when the body was last looked at in every way.
        self._looked_at = -1

    def begin(self) -> None:
        super().begin()
        self._rested(None)

    def deliver(self, outcome: Outcome) -> None:
        super().deliver(outcome)
        self._delivered.append(outcome)
        self._rested(outcome)

    def evict(self) -> None:
        super().evict()
        self._twin.evict()

    def _rested(self, outcome: Outcome | None) -> None:
        self._waited.append(waits_for(self))
        for key, operation in self.journal.pending.items():
            if key not in self._given:
                self._given[key] = argument_text(operation)
        position = len(self._delivered)
        self._twin.take_over(self)
        with ChangedWorld():
            different = self._follow(self._twin, position, outcome) or self._at_end(self._twin)
        if different is None and not self._undelivered:
            if self.closed:
                self.look_closely()
            elif position >= self._next_rebuild:
                self._next_rebuild = 2 * position
                with ChangedWorld():
                    different = self._rebuilt(self.workflow.function)
        if different is not None:
            raise self._error(different, self._reads())

    def look_closely(self) -> None:
        """Rebuild the body in every way that is known, and compare.

        :raises AuditError: it has other inputs than its payload and its journal
        """
        if self._looked_at == len(self._delivered) or self.evicted:
            return
        self._looked_at = len(self._delivered)
        path = (self.workflow.function.__code__, tuple(self._waited))
        if path not in _PATHS:
            self._look_at_reads_and_orders()
            if len(_PATHS) >= MOST_PATHS:
                _PATHS.clear()
            _PATHS.add(path)
        if self._outside is not None and (changed := self._outside.changed()):
            different = self._rebuilt(self._outside.function_of_the_start())
            if different is not None:
                raise self._error(different, hint=self._about(changed))

    def _look_at_reads_and_orders(self) -> None:
        watch = self._watch()
        # In the world as it is: what changes it would read the clocks in the body's place.
        different = self._rebuilt(self.workflow.function, watch.watching())
        if different is not None or watch.found:
            raise self._error(different, list(watch.found))
        other_orders = with_other_set_orders(self.workflow.function)
        if other_orders is not None and (different := self._rebuilt(other_orders)) is not None:
            raise self._error(
                different,
                hint="It depends on the order of a set, which is another in each process; iterate over `sorted(...)`",
            )

    def _about(self, changed: Sequence[str]) -> str:
        assert self._outside is not None
        lines = "; ".join(f"{name!r} at {self._outside.line_of(name)}" for name in changed)
        return f"It reads what changed while the run ran, and is as at first after a restart: {lines}"

    def _watch(self) -> Watch:
        return Watch(self.workflow.function.__module__.partition(".")[0])

    def _reads(self) -> list[DirectRead]:
        watch = self._watch()
        self._rebuilt(self.workflow.function, watch.watching())
        return list(watch.found)

    def _another(self, function: Callable[..., Any]) -> Execution:
        payload = decode_value(self._first_payload, self.workflow.payload_type)
        return Execution(self.record, _in_place_of(self.workflow, function), payload, self._services)

    def _rebuilt(
        self, function: Callable[..., Any], inside: AbstractContextManager[None] | None = None
    ) -> _Difference | None:
        """How a body that is rebuilt now, with *function*, differs from this one."""
        again = self._another(function)
        again.take_over(self)
        compared: set[Key] = set()
        try:
            with inside or nullcontext():
                for position, outcome in enumerate((None, *self._delivered)):
                    different = self._follow(again, position, outcome) or self._given_otherwise(again, compared)
                    if different is not None:
                        return different
                return self._at_end(again)
        finally:
            again.evict()

    def _follow(self, again: Execution, position: int, outcome: Outcome | None) -> _Difference | None:
        """Feed the other body with the outcome at *position*; how it differs then, as far as it has got."""
        try:
            if outcome is None:
                again.begin()
            else:
                again.deliver(outcome)
        except (DivergenceError, NotDurableError) as error:
            return _at(position, again, f"the body cannot go on: {error}")
        now, before = waits_for(again), self._waited[position]
        if now != before:
            return _at(position, again, f"it waited for {_listed(before)}, and now for {_listed(now)}")
        return None

    def _given_otherwise(self, again: Execution, compared: set[Key]) -> _Difference | None:
        for key, operation in again.journal.pending.items():
            if key in compared:
                continue
            compared.add(key)
            given, before = argument_text(operation), self._given.get(key, "")
            if given != before:
                what = f"the arguments of {operation} were {before}, and are now {given}"
                return _at(again.length, again, what)
        return None

    def _at_end(self, again: Execution) -> _Difference | None:
        what = difference(self, again)
        return None if what is None else _at(len(self._delivered), again, what)

    def _error(
        self, different: _Difference | None, reads: Sequence[DirectRead] = (), *, hint: str | None = None
    ) -> AuditError:
        run_id, name = self.record.run_id, self.record.workflow
        if different is None:
            lines = [f"the body of workflow {name!r} has inputs besides its payload and its journal"]
        else:
            after = f"after outcome {different.position}" if different.position else "before the first outcome"
            lines = [
                f"the body of run {run_id!r} of {name!r} is another when it is rebuilt from its journal",
                f"  {after}: {different.what}",
                *(f"  it waits at {each}" for each in different.where),
            ]
            if not reads and hint is None:
                hint = self._hint()
        lines += [f"  {read}" for read in reads]
        lines += [f"  {hint}"] if hint else []
        error = AuditError("\n".join(lines), run_id=run_id, reads=reads)
        if self._found is not None:
            self._found(error)
        return error

    def _hint(self) -> str | None:
        changed = self._outside.changed() if self._outside is not None else []
        return self._about(changed) if changed else None


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(texts) or "nothing"


def _at(position: int, execution: Execution, what: str) -> _Difference:
    return _Difference(position, what, execution.waits_at())


def _in_place_of(workflow: Workflow[Any, Any], function: Callable[..., Any]) -> Workflow[Any, Any]:
    if function is workflow.function:
        return workflow
    return Workflow(
        function,
        name=workflow.name,
        version=workflow.version,
        retry=workflow.retry,
        timeout=workflow.timeout_s,
        failure_function=workflow.failure_function,
    )
