"""Does a random program make the very same trace whenever the same outcomes are delivered in the same order?"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from core.loop_driving import private_loop
from hypothesis import given, settings
from hypothesis import strategies as st

import boxflow
from boxflow.loop import WorkflowLoop

Trace = list[str]


class Program:
    """A random program: what its tasks do follows from *seed* alone, which outcome comes next from *schedule* alone."""

    def __init__(self, seed: int, schedule: int) -> None:
        self._draw = random.Random(seed)
        self._schedule = random.Random(schedule)
        self.loop = WorkflowLoop(now=0.0)
        self.trace: Trace = []
        self._waiting: dict[str, asyncio.Future[str]] = {}
        self._issued = 0
        self._budget = 60

    def run(self) -> Trace:
        """Deliver until nothing is waited for; return the trace."""
        self.loop.create_task(self._body())
        self.loop.drain()
        for turn in range(400):
            choices = [name for name, future in self._waiting.items() if not future.done()]
            due = self.loop.next_due()
            if due is not None:
                choices.append("timer")
            if not choices:
                break
            chosen = self._schedule.choice(choices)
            self.trace.append(f"-> {chosen}")
            if chosen == "timer" and due is not None:
                self.loop.fire(due, due)
            else:
                self.loop.set_time(self.loop.time() + 0.25)
                self._waiting.pop(chosen).set_result(f"outcome {turn}")
            self.loop.drain()
        self.trace.append(f"left {[task.get_name() for task in self.loop.tasks()]}")
        self.loop.evict()
        return self.trace

    def note(self, what: str) -> None:
        task = asyncio.current_task()
        self.trace.append(f"{task.get_name() if task else '-'} {what} @{self.loop.time():g}")

    async def step(self) -> str:
        """A durable call."""
        self._issued += 1
        name = f"step {self._issued}"
        future = private_loop().create_future()
        self._waiting[name] = future
        self.note(f"issues {name}")
        try:
            value = await future
        except asyncio.CancelledError:
            self._waiting.pop(name, None)
            self.note(f"gives up {name}")
            raise
        self.note(f"got {value}")
        return str(value)

    async def _body(self) -> None:
        while self._budget > 0:
            await self._block(0)
        self.note("ends")

    async def _block(self, depth: int) -> None:
        self._budget -= 1
        kinds: list[Callable[[int], Awaitable[None]]] = [self._a_step, self._a_nap]
        if depth < 3 and self._budget > 0:
            kinds += [
                self._gather,
                self._wait_first,
                self._as_completed,
                self._timeout,
                self._task_group,
                self._anyio_group,
                self._anyio_shield,
                self._queue,
                self._lock,
                self._race,
                self._generator,
            ]
        await self._draw.choice(kinds)(depth)

    def _blocks(self, depth: int, most: int = 4) -> list[Any]:
        return [self._block(depth + 1) for _ in range(self._draw.randint(2, most))]

    async def _a_step(self, _depth: int) -> None:
        await self.step()

    async def _a_nap(self, _depth: int) -> None:
        await asyncio.sleep(self._draw.choice([0, 0, 0.5, 1, 1, 2]))

    async def _gather(self, depth: int) -> None:
        await asyncio.gather(*self._blocks(depth), return_exceptions=self._draw.random() < 0.5)

    async def _wait_first(self, depth: int) -> None:
        tasks = {asyncio.create_task(block) for block in self._blocks(depth, 9)}
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        self.note(f"first {[task.get_name() for task in done]}, then {[task.get_name() for task in pending]}")
        for task in pending:
            task.cancel()
        for task in pending:
            await asyncio.wait([task])

    async def _as_completed(self, depth: int) -> None:
        for each in asyncio.as_completed(self._blocks(depth)):
            await each
            self.note("one more")

    async def _timeout(self, depth: int) -> None:
        try:
            async with asyncio.timeout(self._draw.choice([0, 0.5, 1, 3])):
                await self._block(depth + 1)
        except TimeoutError:
            self.note("timed out")

    async def _task_group(self, depth: int) -> None:
        fails = self._draw.random() < 0.3
        try:
            async with asyncio.TaskGroup() as group:
                for block in self._blocks(depth, 6):
                    group.create_task(block)
                await self.step()
                if fails:
                    raise LookupError("enough")
        except* LookupError:
            self.note("group failed")

    async def _anyio_group(self, depth: int) -> None:
        async def child(seconds: float) -> None:
            with anyio.move_on_after(seconds) as scope:
                await self._block(depth + 1)
            self.note(f"child ended, caught={scope.cancelled_caught}")

        cancels = self._draw.random() < 0.5
        async with anyio.create_task_group() as group:
            for _ in range(self._draw.randint(2, 6)):
                group.start_soon(child, self._draw.choice([0.5, 1, 5]))
            if cancels:
                await self.step()
                group.cancel_scope.cancel()

    async def _anyio_shield(self, depth: int) -> None:
        async def child() -> None:
            try:
                await self.step()
            finally:
                with anyio.CancelScope(shield=True):
                    await self.step()

        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(child)
            await self._block(depth + 1)
            group.cancel_scope.cancel()

    async def _queue(self, depth: int) -> None:
        queue = asyncio.Queue[int](1)

        async def produce() -> None:
            for number in range(3):
                await queue.put(number)
                await self._block(depth + 1)

        async def consume() -> None:
            for _ in range(3):
                self.note(f"took {await queue.get()}")

        await asyncio.gather(produce(), consume())

    async def _lock(self, depth: int) -> None:
        lock = asyncio.Lock()

        async def hold() -> None:
            async with lock:
                await self._block(depth + 1)

        await asyncio.gather(hold(), hold(), hold())

    async def _race(self, depth: int) -> None:
        event = asyncio.Event()

        async def set_it() -> None:
            await self._block(depth + 1)
            event.set()

        tasks = [asyncio.create_task(set_it()), asyncio.create_task(self._block(depth + 1))]
        await event.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _generator(self, _depth: int) -> None:
        async def numbers() -> Any:
            try:
                for number in range(3):
                    await self.step()
                    yield number
            finally:
                await asyncio.sleep(0)
                self.note("generator closed")

        async for number in numbers():
            self.note(f"yielded {number}")
            if number == 1:
                break


def traces(seed: int, schedule: int) -> list[Trace]:
    """The trace of the same program, three times, with other things in memory each time."""
    found: list[Trace] = []
    garbage: list[object] = []
    for number in range(3):
        noise = random.Random(f"{seed} {schedule} {number}")
        garbage += [bytearray(noise.randrange(16, 700)) for _ in range(noise.randrange(300))]
        del garbage[:: noise.randrange(2, 5)]
        if number == 1:
            gc.collect()
        found.append(Program(seed, schedule).run())
    return found


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), schedule=st.integers(0, 2**32))
def test_a_random_program_makes_the_same_trace_every_time(seed: int, schedule: int) -> None:
    first, second, third = traces(seed, schedule)
    assert first == second
    assert first == third


def test_the_random_programs_come_to_an_end_and_do_a_lot() -> None:
    found = [Program(seed, seed).run() for seed in range(60)]
    assert sum(trace[-1] == "left []" for trace in found) > 50
    words = " ".join(" ".join(trace) for trace in found)
    for word in ("gives up", "timed out", "group failed", "caught=True", "generator closed", "took 2", "first ["):
        assert word in words


def test_another_process_makes_the_same_traces() -> None:
    def in_process(hash_seed: str) -> str:
        program = f"from {__name__} import digest; print(digest(range(25)))"
        roots = [str(Path(boxflow.__file__).parents[1]), str(Path(__file__).parents[1])]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(roots)}
        command = [sys.executable, "-c", program]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True).stdout

    assert in_process("1") == in_process("2")


def digest(seeds: range) -> str:
    """One hash over the traces of many programs."""
    return hashlib.sha256("\n".join(line for seed in seeds for line in Program(seed, seed).run()).encode()).hexdigest()


@pytest.mark.slow
@pytest.mark.thorough
def test_many_random_programs_make_the_same_trace_every_time() -> None:
    for seed in range(60):
        first, second, third = traces(seed, seed * 7919)
        assert first == second == third, f"seed {seed}"
