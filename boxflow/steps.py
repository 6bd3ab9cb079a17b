"""How a step is run: on the host's loop or in a worker thread, bounded in time, tried again, its value encoded."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections import deque
from collections.abc import Awaitable, Callable
from types import FunctionType
from typing import Any, cast

import anyio
import anyio.to_thread
import msgspec

from boxflow.codec import encode_value
from boxflow.context import current_step
from boxflow.errors import EncodeError, NestedStepError, NonRetryableError, NotDurableError, RetryAfterError
from boxflow.failure import failure_of
from boxflow.journal import StepCall
from boxflow.model import Failure, seconds
from boxflow.retry import Retry

NEVER_AGAIN = (NonRetryableError, NestedStepError, NotDurableError, EncodeError)
"""Failures that another attempt cannot mend."""


class Slots:
    """So many steps run at once; the others wait for theirs, in the order in which they came.

    A semaphore of asyncio does the same, and takes a twentieth of a step's time where nobody has to wait.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Whether there was a free one: it is the caller's now."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def wait(self) -> None:
        """Come back with one."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn  # No deadline: each step that runs has one of its own, or its workflow's author wanted none.
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.give()  # It came in the same moment as the cancel.
            raise

    def give(self) -> None:
        """Hand it to whoever has waited longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class Returned(msgspec.Struct, frozen=True):
    """The attempt returned; *value* is encoded."""

    value: bytes


class Raised(msgspec.Struct, frozen=True):
    """The attempt failed; the next one starts after *pause_s*, or there is none."""

    error: Failure
    pause_s: float | None
    timed_out: bool


async def attempt(
    run_id: str,
    call: StepCall,
    number: int,
    default_retry: Retry | None,
    jitter: float,
    limiter: anyio.CapacityLimiter,
    fn: Callable[..., Any],
) -> Returned | Raised:
    """Run one attempt of *call*, and say what to do next.

    :param jitter: a random number in [0, 1), for the pause before the next attempt
    :param fn: what is called: the call's own function, or what stands in for it
    """
    name, occurrence = call.key
    token = current_step.set((run_id, name, occurrence, number))
    retry = call.retry or default_retry
    try:
        if call.timeout_s is None:
            value = await _call(fn, call.args, limiter)
        else:
            deadline = asyncio.timeout(call.timeout_s)
            try:
                async with deadline:
                    value = await _call(fn, call.args, limiter)
            except TimeoutError as error:
                if not deadline.expired():
                    raise
                failure = Failure(type="TimeoutError", message=f"no result within {call.timeout_s:g} s")
                return Raised(failure, _pause_s(retry, error, number, jitter), timed_out=True)
        try:
            return Returned(encode_value(value, call.type))
        except EncodeError as refusal:
            # The refusal's own words begin with what was returned: "a set, which JSON cannot keep; ...".
            message = f"step {name!r} returned {refusal}"
            return Raised(failure_of(refusal, message=message), None, timed_out=False)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a step raises is its outcome
        # `sys.exit()` in a step fails the step: ending the application, it would meet the same step at the next start.
        return Raised(failure_of(error), _pause_s(retry, error, number, jitter), timed_out=False)
    except KeyboardInterrupt:
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Nobody cancelled this step: its function raised CancelledError by itself, which is a failure like any other.
        return Raised(failure_of(error), _pause_s(retry, Exception(), number, jitter), timed_out=False)
    except BaseException as error:  # noqa: BLE001 - likewise
        # Somebody's own kind, such as pytest's `Failed`, or a group that holds one. Its harm ends with the step.
        return Raised(failure_of(error), _pause_s(retry, error, number, jitter), timed_out=False)
    finally:
        current_step.reset(token)


def _call(fn: Callable[..., Any], args: tuple[Any, ...], limiter: anyio.CapacityLimiter) -> Awaitable[Any]:
    return cast(Awaitable[Any], fn(*args)) if is_async(fn) else _call_in_thread(fn, args, limiter)


async def _call_in_thread(fn: Callable[..., Any], args: tuple[Any, ...], limiter: anyio.CapacityLimiter) -> Any:
    value, error = await anyio.to_thread.run_sync(_attempted, fn, args, abandon_on_cancel=True, limiter=limiter)
    if error is not None:
        raise error
    # A plain function may hand back a coroutine, as a lambda around a coroutine function does.
    return await value if inspect.isawaitable(value) else value


def _attempted(fn: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
    # Handed over as a value: a `GeneratorExit` that is raised through the waiting for a thread would look like its end.
    try:
        return fn(*args), None
    except BaseException as error:  # noqa: BLE001 - whatever a step raises is its outcome
        return None, error


def is_async(fn: Callable[..., Any]) -> bool:
    """Whether calling *fn* gives a coroutine: an `async def`, a partial of one, or an object with such a `__call__`."""
    if isinstance(fn, FunctionType) and fn.__code__.co_flags & inspect.CO_COROUTINE:
        return True  # Nearly always; `inspect` takes ten times as long.
    while isinstance(fn, functools.partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004 - the method itself is wanted


def _pause_s(retry: Retry | None, error: BaseException, number: int, jitter: float) -> float | None:
    """How long to wait before the next attempt; None when there is none."""
    if isinstance(error, NEVER_AGAIN):
        return None
    if isinstance(error, RetryAfterError):
        # Raising it asks for another try, so it has the default attempts even where no policy was given.
        limit = (retry or Retry()).attempts
        if limit is not None and number >= limit:
            return None
        try:
            return seconds(error.delay)
        except (TypeError, ValueError):
            # Often a number from somebody's header, and not a pause: then the policy's own.
            return (retry or Retry()).pause_s(number, jitter)
    if retry is None or not retry.wants(error) or (retry.attempts is not None and number >= retry.attempts):
        return None
    return retry.pause_s(number, jitter)
