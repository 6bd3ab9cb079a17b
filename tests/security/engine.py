"""The process that attacks are made against: it has the secrets, owns the boxes, and tells what came of each attack.

A process of its own, so that its environment and its user are what the table is about, and not those of the tests. It
reads what to do as JSON from its input, and writes the outcomes as JSON.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import attrs
from security.attacks import ATTACKS, Attack
from security.outcome import VERDICTS, Outcome
from security.profiles import PROFILES, Profile
from security.scene import Scene

from boxflow import Box, Boxes
from boxflow.errors import NotSupportedError

# Some attacks compute, or write as much as they can, for some seconds; some machines are slow.
_TIMEOUT_S = 60.0


@attrs.frozen(kw_only=True)
class Orders:
    """What to do.

    :param titles: of the attacks; none to clean up after an engine that died
    :param directory: empty, and this user's own
    :param image: what Docker boxes are made from
    """

    profile: str
    titles: Sequence[str]
    directory: str
    image: str


async def attack_all(orders: Orders) -> dict[str, Outcome]:
    """What came of each attack."""
    profile = PROFILES[orders.profile]
    directory = Path(orders.directory)
    scene = Scene(directory)
    outcomes: dict[str, Outcome] = {}
    sandbox = profile.make(directory / "boxes", orders.image)
    if not orders.titles:
        async with Boxes(sandbox):
            return {}
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(scene.set())
        boxes = await stack.enter_async_context(Boxes(sandbox))
        await stack.enter_async_context(scene.another_box(boxes))
        for options, titles in _by_box(profile, orders.titles):
            async with AsyncExitStack() as block:
                box = await _make_box(block, boxes, scene, profile, options)
                outcomes |= await _attack_from(scene, boxes, box, titles)
    return outcomes


def _by_box(profile: Profile, titles: Sequence[str]) -> list[tuple[Attack, list[str]]]:
    """Attacks that may share a box, with the first of them, which says how that box is made."""
    found: list[tuple[Attack, list[str]]] = []
    for title in titles:
        attack = ATTACKS[title]
        for first, others in found:
            if not attack.box_alone and not first.box_alone and _options(profile, attack) == _options(profile, first):
                others.append(title)
                break
        else:
            found.append((attack, [title]))
    return found


def _options(profile: Profile, attack: Attack) -> dict[str, Any]:
    options = {name: value for name, value in attack.options.items() if name not in profile.leaves_out}
    return {**profile.options, **options, **({"network": None} if attack.gated else {})}


async def _make_box(block: AsyncExitStack, boxes: Boxes, scene: Scene, profile: Profile, attack: Attack) -> Box:
    options = _options(profile, attack)
    if attack.gated:
        options["network"] = scene.egress()
    try:
        return await block.enter_async_context(boxes.create("attacker", **options))
    except NotSupportedError:
        # Told openly, which is all that can be asked of it. Whoever goes on without has what the table says.
        return await block.enter_async_context(boxes.create("attacker"))


async def _attack_from(scene: Scene, boxes: Boxes, box: Box, titles: Sequence[str]) -> dict[str, Outcome]:
    """What comes of attacks from one box. Those of one program that the engine takes no part in run in one exec."""
    outcomes: dict[str, Outcome] = {}
    together: dict[str, list[str]] = {}
    for title in titles:
        if ATTACKS[title].engine is None:
            together.setdefault(ATTACKS[title].program, []).append(title)
    for alike in together.values():
        told = await _execute(scene, box, [(ATTACKS[title], ATTACKS[title].function, {}) for title in alike])
        outcomes |= zip(alike, told, strict=True)
    for title in titles:
        if ATTACKS[title].engine is not None:
            outcomes[title] = await _attack_with_engine(scene, boxes, box, ATTACKS[title])
        elif ATTACKS[title].depends_on_machine and not outcomes[title].succeeded:
            outside = await asyncio.to_thread(_succeeds_outside, scene, ATTACKS[title])
            outcomes[title] = attrs.evolve(outcomes[title], outside=outside)
    return outcomes


async def _attack_with_engine(scene: Scene, boxes: Boxes, box: Box, attack: Attack) -> Outcome:
    assert attack.engine is not None

    async def run(function: str, *, timeout: float = _TIMEOUT_S, **facts: Any) -> Outcome:
        return (await _execute(scene, box, [(attack, function, facts)], timeout=timeout))[0]

    return await attack.engine(scene, boxes, box, run)


async def _execute(
    scene: Scene, box: Box, functions: Sequence[tuple[Attack, str, Mapping[str, Any]]], *, timeout: float = _TIMEOUT_S
) -> list[Outcome]:
    """Run functions of one program after each other; :raises RuntimeError: one of them failed, and told no verdict"""
    text = functions[0][0].text()
    told = [(name, _told({**scene.facts(), **attack.facts, **facts})) for attack, name, facts in functions]
    result = await box.exec.code(text, "python", args=(json.dumps(told),), timeout=timeout)
    if result.exit_code != 0:
        raise RuntimeError(f"of {[name for name, _ in told]} one failed: {result.stderr}")
    return [Outcome.read(line) for line in result.stdout.splitlines() if line.startswith(VERDICTS)]


def _told(facts: Mapping[str, Any]) -> dict[str, Any]:
    """*facts* as arguments. Secrets backwards, so that who searches everything for one does not find the question."""
    return {name: value[::-1] if name.endswith("_secret") else value for name, value in facts.items()}


def _succeeds_outside(scene: Scene, attack: Attack) -> bool:
    """Whether the attack succeeds without any box."""
    place = scene.directory / "no-box"
    place.mkdir(exist_ok=True)
    told = json.dumps([(attack.function, _told({**scene.facts(), **attack.facts}))])
    done = subprocess.run(
        # Not the one that runs this: it may be below another user's home.
        [shutil.which("python3") or sys.executable, "-I", "-c", attack.text(), told],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=True,
    )
    return Outcome.read(done.stdout.strip()).succeeded


def main() -> None:
    """Carry out the orders."""
    orders = Orders(**json.load(sys.stdin))
    outcomes: Mapping[str, Outcome] = asyncio.run(attack_all(orders))
    print(json.dumps({title: attrs.asdict(outcome) for title, outcome in outcomes.items()}))


if __name__ == "__main__":
    main()
