"""What makes an async function a workflow: its name, its version, and how it may fail."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, overload

import attrs

from boxflow.codec import encode_value, payload_type, return_type
from boxflow.errors import ConfigurationError, EncodeError
from boxflow.model import Duration, Failure, RunStatus, seconds
from boxflow.retry import Retry

if TYPE_CHECKING:
    from boxflow.context import Context

I = TypeVar("I")  # noqa: E741 - the design's letters: payload in, result out
O = TypeVar("O")  # noqa: E741 - likewise
# Covariant, so that `print(await engine.run(f, x))`, which asks for an object, takes what results in a text.
O_co = TypeVar("O_co", covariant=True)

Version: TypeAlias = int | str


@attrs.frozen(kw_only=True)
class RunFailure:
    """What a failure function learns: how the run ended, why, and what it was started with."""

    run_id: str
    status: RunStatus
    error: Failure
    payload: Any
    reason: str | None = None


FailureFunction: TypeAlias = "Callable[[Context, RunFailure], Awaitable[object]]"


class Workflow(Generic[I, O_co]):
    """An async function `(ctx, payload)` whose steps, waits and timers are durable.

    Made by `@workflow`. Calling it inside another workflow's body runs it inline, as the plain function it is; to run
    it as a child with a journal of its own, use `ctx.invoke`.
    """

    def __init__(
        self,
        function: Callable[[Context, I], Coroutine[Any, Any, O_co]],
        *,
        name: str | None = None,
        version: Version = "",
        retry: Retry | None = None,
        timeout: Duration | None = None,
        failure_function: FailureFunction | None = None,
    ) -> None:
        if not inspect.iscoroutinefunction(function):
            raise ConfigurationError(
                f"workflow {function!r} is not an `async def` function; declare it with `async def`"
            )
        parameters = list(inspect.signature(function).parameters.values())
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if len(positional) != 2 or len(parameters) != 2:
            raise ConfigurationError(
                f"workflow {function.__qualname__!r} takes {len(parameters)} parameters; "
                "it must take two: (ctx, payload)"
            )
        self.function = function
        self.name = name or function.__name__
        self.version = str(version)
        self.retry = retry
        self.timeout_s = None if timeout is None else seconds(timeout)
        self.failure_function = failure_function
        default = positional[1].default
        self.default_payload: object = None if default is inspect.Parameter.empty else default
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self.__module__ = function.__module__
        self.__wrapped__ = function

    def __call__(self, ctx: Context, payload: I) -> Coroutine[Any, Any, O_co]:
        return self.function(ctx, payload)

    def __repr__(self) -> str:
        return f"<Workflow {self.title}>"

    @property
    def title(self) -> str:
        """Name and version as people read them."""
        return f"{self.name!r}" + (f" version {self.version!r}" if self.version else "")

    @property
    def payload_type(self) -> object:
        """The type its payload is decoded to: the annotation of its second parameter."""
        return payload_type(self.function)

    @property
    def return_type(self) -> object:
        """The type its result is decoded to: its return annotation."""
        return return_type(self.function)


@overload
def workflow(function: Callable[[Context, I], Coroutine[Any, Any, O]], /) -> Workflow[I, O]: ...


@overload
def workflow(
    *,
    name: str | None = None,
    version: Version = "",
    retry: Retry | None = None,
    timeout: Duration | None = None,
    failure_function: FailureFunction | None = None,
) -> Callable[[Callable[[Context, I], Coroutine[Any, Any, O]]], Workflow[I, O]]: ...


def workflow(
    function: Callable[[Context, Any], Coroutine[Any, Any, Any]] | None = None,
    /,
    *,
    name: str | None = None,
    version: Version = "",
    retry: Retry | None = None,
    timeout: Duration | None = None,
    failure_function: FailureFunction | None = None,
) -> Any:
    """Make an async function `(ctx, payload)` a workflow.

    :param name: its name in the store; the function's name by default. Renaming the function then changes nothing
    :param version: several versions of one name may be registered side by side: a run goes on with the version it began
        with, a new run takes the newest (numbers compare as numbers, other texts as texts)
    :param retry: how its steps are retried when they do not say so themselves
    :param timeout: the run is cancelled when it takes longer, counted from its start
    :param failure_function: `async (ctx, failure)`, run durably when the run failed, was cancelled or timed out
    :raises ConfigurationError: it is not an `async def` function with exactly the two parameters
    """

    def decorate(function: Callable[[Context, Any], Coroutine[Any, Any, Any]]) -> Workflow[Any, Any]:
        return Workflow(
            function, name=name, version=version, retry=retry, timeout=timeout, failure_function=failure_function
        )

    return decorate if function is None else decorate(function)


def encode_payload(workflow: Workflow[Any, Any], payload: object) -> bytes:
    """*payload* as the workflow's second parameter takes it; `...` stands for none given.

    :raises EncodeError: it does not fit, or cannot be kept
    """
    if payload is ...:
        payload = workflow.default_payload
    try:
        return encode_value(payload, workflow.payload_type, verb="pass")
    except EncodeError as refusal:
        raise EncodeError(f"the payload of workflow {workflow.title} is {refusal}") from refusal


def version_order(version: str) -> tuple[int, int, str]:
    """The key by which versions are compared: none, then numbers by value, then texts."""
    if not version:
        return (0, 0, "")
    return (1, int(version), "") if version.isdecimal() else (2, 0, version)
