"""What can a workflow look like? Workflows as data: an expression tree, a seeded generator of such trees, its
properties.

A plan is plain JSON, so a failing one can be printed, stored and run again. Names are few and repeat on purpose:
parallel branches that call steps of one name are where outcomes get swapped, if they do.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Literal, TypeAlias, get_args

import msgspec


class _Node(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    pass


class Step(_Node, frozen=True):
    """A step that raises on its first *failures* attempts, of *attempts*."""

    name: str
    failures: int = 0
    attempts: int = 1
    timeout_s: float | None = None
    at_most_once: bool = False


class Sleep(_Node, frozen=True):
    """A timer: `ctx.sleep`, or `asyncio.sleep` when *plain*."""

    delay_s: float
    plain: bool = False


class Event(_Node, frozen=True):
    """A wait for an event."""

    event_id: str
    timeout_s: float | None = None


class Hook(_Node, frozen=True):
    """A webhook, and a wait for a call of it."""

    name: str
    timeout_s: float | None = None


class Notify(_Node, frozen=True):
    """An event sent by the body."""

    event_id: str


class Patched(_Node, frozen=True):
    """One of two branches, by `ctx.patched`. The code never changes here, so the answer must be True."""

    change_id: str
    new: Node
    old: Node


class Fail(_Node, frozen=True):
    """An exception of the body."""


class CancelSelf(_Node, frozen=True):
    """The run cancels itself."""


class Invoke(_Node, frozen=True):
    """A child run."""

    name: str
    part: Node


class Sequence(_Node, frozen=True):
    """One after the other."""

    parts: tuple[Node, ...]


class Gather(_Node, frozen=True):
    """`asyncio.gather`."""

    parts: tuple[Node, ...]
    keep_errors: bool = False


class First(_Node, frozen=True):
    """`asyncio.wait(..., FIRST_COMPLETED)`; the others are cancelled, and awaited when *tidy*."""

    parts: tuple[Node, ...]
    tidy: bool = True


class AsTheyCome(_Node, frozen=True):
    """`asyncio.as_completed`."""

    parts: tuple[Node, ...]


class Group(_Node, frozen=True):
    """A task group."""

    parts: tuple[Node, ...]
    library: Literal["asyncio", "anyio"] = "asyncio"


class Handoff(_Node, frozen=True):
    """Producers and one consumer around a queue (asyncio) or a memory stream (anyio) that holds one item."""

    parts: tuple[Node, ...]
    library: Literal["asyncio", "anyio"] = "asyncio"


class Locked(_Node, frozen=True):
    """Parallel parts, of which *permits* may go on at a time."""

    parts: tuple[Node, ...]
    permits: int = 1


class Deadline(_Node, frozen=True):
    """`asyncio.timeout`, `asyncio.wait_for` or `anyio.move_on_after` around a part."""

    delay_s: float
    part: Node
    library: Literal["timeout", "wait_for", "move_on_after"] = "timeout"


class Guarded(_Node, frozen=True):
    """`try: part finally: final`."""

    part: Node
    final: Node


class Tolerant(_Node, frozen=True):
    """`try: part except Exception`."""

    part: Node


class Shielded(_Node, frozen=True):
    """`asyncio.shield`."""

    part: Node


class Leftover(_Node, frozen=True):
    """A task that nobody awaits."""

    part: Node


class Repeat(_Node, frozen=True):
    """A loop."""

    times: int
    part: Node


Node: TypeAlias = (
    Step
    | Sleep
    | Event
    | Hook
    | Notify
    | Patched
    | Fail
    | CancelSelf
    | Invoke
    | Sequence
    | Gather
    | First
    | AsTheyCome
    | Group
    | Handoff
    | Locked
    | Deadline
    | Guarded
    | Tolerant
    | Shielded
    | Leftover
    | Repeat
)

KINDS: tuple[type[Node], ...] = get_args(Node)
STEP_NAMES = ("a", "b", "c")
EVENT_IDS = ("e", "f")
DELAYS_S = (0.0, 0.5, 1.0, 1.0, 2.0, 5.0, 30.0)
"""Some are equal: timers that are due at one instant are a case of their own."""


def parts_of(node: Node) -> tuple[Node, ...]:
    """The nodes directly below *node*."""
    match node:
        case Sequence() | Gather() | First() | AsTheyCome() | Group() | Handoff() | Locked():
            return node.parts
        case Patched():
            return (node.new, node.old)
        case Guarded():
            return (node.part, node.final)
        case Invoke() | Deadline() | Tolerant() | Shielded() | Leftover():
            return (node.part,)
        case Repeat():
            return (node.part,) * node.times
        case _:
            return ()


def walk(node: Node, run_id: str) -> Iterator[tuple[Node, str]]:
    """All nodes of a plan, each with the id of the run it belongs to."""
    yield node, run_id
    below = f"{run_id}/{node.name}" if isinstance(node, Invoke) else run_id
    for part in parts_of(node):
        yield from walk(part, below)


def is_determined(node: Node) -> bool:
    """Whether the result of the plan is the same in whatever order things happen.

    So no races, no deadlines, no failure that cuts off a sibling, no self-cancel and no event whose data is told apart.
    """
    match node:
        case First() | Deadline() | CancelSelf() | Leftover() | Fail() | Shielded():
            return False
        case Step():
            return node.failures < node.attempts and node.timeout_s is None and not node.at_most_once
        case Event() | Hook():
            return node.timeout_s is None
        case _:
            return all(is_determined(part) for part in parts_of(node))


class Generator:
    """Makes plans out of the numbers of *random*.

    :param leaves: about how many leaves a plan has at most
    """

    def __init__(self, random: Random, *, leaves: int = 10) -> None:
        self._random = random
        self._left = leaves
        self._children = 0

    def plan(self) -> Node:
        """A plan with some structure on top."""
        return Sequence(tuple(self._node(3) for _ in range(self._random.randint(1, 3))))

    def _node(self, depth: int) -> Node:
        random = self._random
        if depth == 0 or self._left <= 1 or random.random() < 0.2:
            return self._leaf()
        kind = random.randrange(20)
        if kind < 10:
            return self._parallel(kind, depth)
        part = self._node(depth - 1)
        match kind:
            case 10 | 11 | 12:
                library = random.choice(("timeout", "wait_for", "move_on_after"))
                return Deadline(random.choice(DELAYS_S), part, library)  # type: ignore[arg-type] # one of the three
            case 13 | 14:
                return Guarded(part, Sequence((self._step(), self._sleep())) if random.random() < 0.3 else self._step())
            case 15:
                return Tolerant(part)
            case 16:
                return random.choice((Shielded, Leftover))(part)
            case 17:
                return Repeat(random.randint(2, 3), self._step() if random.random() < 0.7 else self._sleep())
            case 18:
                self._children += 1
                return Invoke(f"child{self._children}", part)
            case _:
                return Sequence((part, self._node(depth - 1)))

    def _parallel(self, kind: int, depth: int) -> Node:
        random = self._random
        parts = tuple(self._node(depth - 1) for _ in range(random.randint(2, 3)))
        library: Literal["asyncio", "anyio"] = "asyncio" if random.random() < 0.5 else "anyio"
        match kind:
            case 0 | 1:
                return Gather(parts, keep_errors=random.random() < 0.5)
            case 2 | 3:
                return First(parts, tidy=random.random() < 0.7)
            case 4 | 5:
                return AsTheyCome(parts)
            case 6 | 7:
                return Group(parts, library)
            case 8:
                return Handoff(parts, library)
            case _:
                return Locked(parts, random.randint(1, 2))

    def _leaf(self) -> Node:
        random = self._random
        self._left -= 1
        kind = random.randrange(40)
        timeout_s = random.choice(DELAYS_S) if random.random() < 0.4 else None
        if kind < 22:
            return self._step()
        if kind < 27:
            return self._sleep()
        if kind < 32:
            return Event(random.choice(EVENT_IDS), timeout_s)
        if kind < 34:
            return Hook(random.choice(("h", "i")), timeout_s)
        if kind < 36:
            return Notify(random.choice(EVENT_IDS))
        if kind < 38:
            return Patched(random.choice(("p", "q")), self._step(), self._sleep())
        return Fail() if kind == 38 or random.random() < 0.7 else CancelSelf()

    def _step(self) -> Step:
        random = self._random
        kind = random.randrange(12)
        name = random.choice(STEP_NAMES)
        match kind:
            case 0 | 1:
                return Step(name, failures=random.randint(1, 2), attempts=3)
            case 2:
                return Step(name, failures=2, attempts=2)
            case 3:
                return Step(name, failures=1)
            case 4:
                return Step(name, timeout_s=1.0, attempts=random.randint(1, 2))
            case 5:
                return Step(name, at_most_once=True, failures=random.randint(0, 1), attempts=random.randint(1, 2))
            case _:
                return Step(name)

    def _sleep(self) -> Sleep:
        return Sleep(self._random.choice(DELAYS_S), plain=self._random.random() < 0.5)
