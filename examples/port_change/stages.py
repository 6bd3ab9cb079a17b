"""How far has the pipeline come? Read from its journal, the only truth about it."""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence

from boxflow import Outcome, Run
from boxflow.model import EventArrived
from examples.port_change.workflow import LANGUAGES


class Stage(enum.Enum):
    PORTING = "porting"
    REVIEW = "review"
    PUBLISHING = "publishing"
    OVER = "over"


def stage_of(outcomes: Sequence[Outcome]) -> tuple[Stage, int]:
    """The stage, and the round it is in (from 1)."""
    ported = sum(outcome.kind == "child_ended" for outcome in outcomes) // len(LANGUAGES)
    answers = [outcome.data for outcome in outcomes if isinstance(outcome, EventArrived)]
    if answers and answers[-1]["approved"]:
        return Stage.PUBLISHING, len(answers)
    return (Stage.REVIEW if ported > len(answers) else Stage.PORTING), len(answers) + 1


async def reached(run: Run[object], stages: Collection[Stage]) -> tuple[Stage, int]:
    """Wait until the pipeline is in one of *stages*; `OVER` is reached always."""
    rounds = 1
    async for _ in run.watch():
        # Anew from the whole journal: what `watch` hands out first may be long past.
        stage, rounds = stage_of(await run.history())
        if stage in stages:
            return stage, rounds
    return Stage.OVER, rounds
