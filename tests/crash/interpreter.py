"""How does a plan run? One generic workflow body that walks the tree, and the step function that all its steps share.

Every step is asked for with a label of its own, returns it, and the body checks that it got its own back: an outcome
that reaches another branch is seen at once, in every schedule. What the body sees goes into a trace, which must be
the same whenever the same outcomes are delivered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from contextvars import ContextVar
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import anyio
import msgspec

from boxflow import Context, Retry, StepInfo, step, workflow
from tests.crash import plans
from tests.crash.plans import Node

RETRY_PAUSE_S = 1.0


class Swapped(AssertionError):
    """An outcome reached another call than its own."""


class Refusal(Exception):
    """What failing steps and failing bodies raise."""


class Stage(Protocol):
    """What a step finds on the host: who is told that it runs, and who lets it go on."""

    async def step_runs(self, info: StepInfo, label: str, *, careful: bool) -> None: ...


STAGE: ContextVar[Stage] = ContextVar("stage")
"""Set before the engine is entered; steps run in a copy of the engine's context."""

TRACES: WeakKeyDictionary[Context, list[str]] = WeakKeyDictionary()
"""What each body has seen, by its context."""


DECODER: msgspec.json.Decoder[Node] = msgspec.json.Decoder(plans.Node)


async def work(label: str, failures: int, careful: bool) -> str:
    """The one step function: waits on the host until the schedule lets it go on, then fails or returns its label."""
    info = step()
    await STAGE.get().step_runs(info, label, careful=careful)
    if info.attempt <= failures:
        raise Refusal(f"attempt {info.attempt} of {label}")
    return label


def decode_plan(text: str) -> Node:
    """The plan that *text*, its JSON, stands for."""
    return DECODER.decode(text)


@workflow
async def planned(ctx: Context, plan: str) -> Any:
    """Walk *plan*."""
    return await Body(ctx).walk(decode_plan(plan), "")


class Body:
    """One walk through a plan."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._trace = TRACES.setdefault(ctx, [])
        self._leftovers: list[asyncio.Task[Any]] = []

    async def walk(self, node: Node, path: str) -> Any:
        """Do what *node* says. *path* is its place in the tree: every walk of every node has its own."""
        try:
            value = await self._visit(node, path)
        except BaseException as error:
            self._trace.append(f"{path} raised {type(error).__name__}")
            raise
        self._trace.append(f"{path} gave {value}")
        return value

    def _note(self, path: str, seen: object, result: str) -> str:
        # What depends on who was first is seen by the body, the same on replay, and is no part of its result.
        self._trace.append(f"{path} saw {seen}")
        return result

    def _all(self, parts: tuple[Node, ...], path: str) -> list[Coroutine[Any, Any, Any]]:
        return [self.walk(part, f"{path}.{number}") for number, part in enumerate(parts)]

    async def _visit(self, node: Node, path: str) -> Any:
        ctx, below = self._ctx, f"{path}.0"
        match node:
            case plans.Step():
                return await self._step(node, path)
            case plans.Sleep(delay_s=delay_s, plain=True):
                return await asyncio.sleep(delay_s, "slept")
            case plans.Sleep():
                return await ctx.sleep("nap", node.delay_s)
            case plans.Event():
                name = f"await {node.event_id}"
                return self._note(path, await ctx.wait_for_event(name, node.event_id, timeout=node.timeout_s), "event")
            case plans.Hook():
                hook = await ctx.create_webhook(node.name)
                call = await ctx.wait_for_webhook(f"call of {node.name}", hook, timeout=node.timeout_s)
                return self._note(path, call.json(), "call")
            case plans.Notify():
                return self._note(path, await ctx.notify("tell", node.event_id, {"id": f"{ctx.run_id}{path}"}), "told")
            case plans.Patched():
                is_new = ctx.patched(node.change_id)
                self._trace.append(f"{path} patched {is_new}")
                return [is_new, await self.walk(node.new if is_new else node.old, below)]
            case plans.Fail():
                raise Refusal(path)
            case plans.CancelSelf():
                return await ctx.cancel("by itself")
            case plans.Invoke():
                return await ctx.invoke(node.name, planned, msgspec.json.encode(node.part).decode())
            case plans.Sequence():
                return [await self.walk(part, f"{path}.{number}") for number, part in enumerate(node.parts)]
            case plans.Gather():
                results = await asyncio.gather(*self._all(node.parts, path), return_exceptions=node.keep_errors)
                return [_told(result) for result in results]
            case plans.First():
                return await self._first(node, path)
            case plans.AsTheyCome():
                tasks = [asyncio.create_task(each) for each in self._all(node.parts, path)]
                return sorted([await _outcome(each) for each in asyncio.as_completed(tasks)], key=str)
            case plans.Group(library="asyncio"):
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(each) for each in self._all(node.parts, path)]
                return [task.result() for task in tasks]
            case plans.Group():
                return await self._anyio_group(node.parts, path)
            case plans.Handoff(library="asyncio"):
                return await self._queue(node.parts, path)
            case plans.Handoff():
                return await self._stream(node.parts, path)
            case plans.Locked():
                return await self._locked(node, path)
            case plans.Deadline():
                return await self._deadline(node, below)
            case plans.Guarded():
                try:
                    return await self.walk(node.part, below)
                finally:
                    await self.walk(node.final, f"{path}.1")
            case plans.Tolerant():
                return await _outcome(self.walk(node.part, below))
            case plans.Shielded():
                return await asyncio.shield(self.walk(node.part, below))
            case plans.Leftover():
                self._leftovers.append(asyncio.create_task(self.walk(node.part, below)))
                return "left"
            case plans.Repeat():
                return [await self.walk(node.part, f"{path}.{number}") for number in range(node.times)]

    async def _step(self, node: plans.Step, path: str) -> str:
        got = await self._ctx.run(
            node.name,
            work,
            path,
            node.failures,
            node.at_most_once,
            retry=Retry(attempts=node.attempts, delay=RETRY_PAUSE_S, jitter=0.0),
            timeout=node.timeout_s,
            at_most_once=node.at_most_once,
        )
        if got != path:
            raise Swapped(f"step {node.name!r} at {path!r} got the result of {got!r}")
        return got

    async def _first(self, node: plans.First, path: str) -> Any:
        tasks = [asyncio.create_task(each) for each in self._all(node.parts, path)]
        done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        if rest and node.tidy:
            await asyncio.wait(rest)
        # In the order in which the set gives them: that must be deterministic, too.
        return [await _outcome(task) for task in done]

    async def _anyio_group(self, parts: tuple[Node, ...], path: str) -> Any:
        results: dict[int, Any] = {}

        async def fill(number: int) -> None:
            results[number] = await self.walk(parts[number], f"{path}.{number}")

        async with anyio.create_task_group() as group:
            for number in range(len(parts)):
                group.start_soon(fill, number)
        return [results[number] for number in range(len(parts))]

    async def _queue(self, parts: tuple[Node, ...], path: str) -> Any:
        queue: asyncio.Queue[Any] = asyncio.Queue(1)

        async def produce(number: int) -> None:
            await queue.put(await _outcome(self.walk(parts[number], f"{path}.{number}")))

        async with asyncio.TaskGroup() as group:
            for number in range(len(parts)):
                group.create_task(produce(number))
            taken = [await queue.get() for _ in parts]
        return sorted(taken, key=str)

    async def _stream(self, parts: tuple[Node, ...], path: str) -> Any:
        taken: list[Any] = []
        send, receive = anyio.create_memory_object_stream[Any](1)

        async def produce(number: int) -> None:
            await send.send(await _outcome(self.walk(parts[number], f"{path}.{number}")))

        async with send, receive, anyio.create_task_group() as group:
            for number in range(len(parts)):
                group.start_soon(produce, number)
            taken += [await receive.receive() for _ in parts]
        return sorted(taken, key=str)

    async def _locked(self, node: plans.Locked, path: str) -> Any:
        semaphore = asyncio.Semaphore(node.permits)

        async def alone(number: int) -> Any:
            async with semaphore:
                return await self.walk(node.parts[number], f"{path}.{number}")

        return await asyncio.gather(*(alone(number) for number in range(len(node.parts))))

    async def _deadline(self, node: plans.Deadline, path: str) -> Any:
        try:
            match node.library:
                case "timeout":
                    async with asyncio.timeout(node.delay_s):
                        return await self.walk(node.part, path)
                case "wait_for":
                    return await asyncio.wait_for(self.walk(node.part, path), node.delay_s)
                case _:
                    with anyio.move_on_after(node.delay_s):
                        return await self.walk(node.part, path)
        except TimeoutError:
            pass  # The same answer as for `move_on_after`, which raises nothing.
        return "timed out"


async def _outcome(part: Awaitable[Any]) -> Any:
    try:
        return await part
    except Exception as error:
        return _told(error)


def _told(result: Any) -> Any:
    if isinstance(result, Swapped):
        raise result
    return f"raised {type(result).__name__}" if isinstance(result, BaseException) else result
