"""How are waits answered over several lives? Each once, at the time of its first life, and with the same answer again.

Who answers in life does not know of crashes: an answer that was not accepted is sent again, and comes no later.
"""

from __future__ import annotations

from boxflow.errors import RunEndedError, RunNotFoundError
from boxflow.journal import MailWait
from boxflow.testing.breaking.open_world import OpenWorld, encoded_answer
from boxflow.testing.rules import Rule

Wait = tuple[str, str, int]
"""A wait of a run: the run, the wait's name, its occurrence."""


class Answers:
    """What has been answered in the lives of one run."""

    def __init__(self) -> None:
        #: What the script raised in place of an answer.
        self.problem: str | None = None
        #: How many answers have been given.
        self.given = 0
        self._due: dict[Wait, float] = {}
        self._data: dict[Wait, bytes] = {}
        #: How many answers each rule has given in all lives, and in this one.
        self._drawn: dict[str, int] = {}
        self._drawn_now: dict[str, int] = {}

    def begin(self, world: OpenWorld) -> None:
        """A new life begins in *world*, with rules that have answered nothing yet."""
        self._drawn_now = {}

        def began(run_id: str, wait: MailWait, rule: Rule) -> None:
            world.spawn(self._answer(world, run_id, wait, rule))

        world.leave_answers_to(began)

    async def _answer(self, world: OpenWorld, run_id: str, wait: MailWait, rule: Rule) -> None:
        which = (run_id, *wait.key)
        await world.clock.sleep_until(self._due.setdefault(which, world.clock.now() + rule.after_s))
        try:
            self.given += 1
            data = self._data.get(which)
            if data is None:
                data = self._data[which] = encoded_answer(wait.kind, await self._next(rule))
            await world.send(run_id, wait.kind, wait.subject, data)
        except (RunEndedError, RunNotFoundError):
            return  # It did not wait to the end.
        except Exception as error:  # noqa: BLE001 - the script's own
            self.problem = f"what answers the wait {wait.key[0]!r} raised {type(error).__name__}: {error}"

    async def _next(self, rule: Rule) -> object:
        """The rule's next answer: one that goes through a list goes on where it was in an earlier life."""
        pattern = rule.pattern
        while self._drawn_now.get(pattern, 0) < self._drawn.get(pattern, 0):
            self._drawn_now[pattern] = self._drawn_now.get(pattern, 0) + 1
            await rule.result()
        self._drawn[pattern] = self._drawn_now[pattern] = self._drawn.get(pattern, 0) + 1
        return await rule.result()
