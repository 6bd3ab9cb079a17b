"""How events and webhook calls find their waits, and are kept until one comes: none is lost, none arrives twice.

What is sent to one mailbox while others' mail is on its way there is carried together, by one change of the store.

    mail_waits.py    who waits, and is handed something     kept_mail.py     what waits for somebody
    webhook_ids.py   what has come before
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from boxflow.errors import EventsFullError, RunEndedError, RunNotFoundError, StoreClosedError
from boxflow.journal import MailWait
from boxflow.kept_mail import Kept, KeptMail, Kind, Mail
from boxflow.mail import Notified
from boxflow.mail_waits import Hub as WaitsHub
from boxflow.mail_waits import MailWaits, place
from boxflow.model import Change, RunStatus
from boxflow.ports import RunQuery
from boxflow.runner import Runner
from boxflow.webhook_ids import WebhookIds, id_key

AT_ONCE = 100
"""How many runs are brought into memory at once for one event, and how many letters one change of the store keeps."""


class Hub(WaitsHub, Protocol):
    """What the mailroom asks of its engine."""

    def resident(self, run_id: str) -> Runner | None: ...

    async def rouse(self, run_id: str) -> Runner | None: ...


class Letter:
    """Mail on its way to one run, and its sender's answer.

    :param id_key: by which it is known when it comes again
    """

    __slots__ = ("answer", "changes", "id_key", "mail")

    def __init__(self, mail: Mail, id_key: str | None) -> None:
        self.mail = mail
        self.id_key = id_key
        #: Made together with what becomes of the letter.
        self.changes: tuple[Change, ...] = ()
        self.answer: asyncio.Future[Notified] = asyncio.get_running_loop().create_future()

    def tell(self, notified: Notified) -> None:
        """Answer the sender, who may have gone."""
        if not self.answer.done():
            self.answer.set_result(notified)

    def refuse(self, error: Exception) -> None:
        """Tell the sender what kept it from being delivered; nothing once it was answered."""
        if not self.answer.done():
            self.answer.set_exception(error)


class Mailroom:
    """Delivers mail, or keeps it.

    :param keep_s: how long an event that nobody waits for is kept
    :param max_kept: how many may be kept in all; beyond, senders get `EventsFullError`
    """

    def __init__(self, hub: Hub, *, keep_s: float, max_kept: int) -> None:
        self._hub = hub
        self._kept = KeptMail(hub, keep_s=keep_s, max_kept=max_kept)
        self._ids = WebhookIds(hub)
        self._waits = MailWaits(hub, self._kept)
        #: On their way to each run and subject: as many as there are senders that wait for an answer.
        self._letters: dict[tuple[str, str], list[Letter]] = {}

    def await_mail(self, runner: Runner, wait: MailWait) -> None:
        """*wait* has begun: look whether something is kept for it."""
        self._waits.begin(runner, wait)

    def forget(self, wait: MailWait) -> None:
        """*wait* is over."""
        self._waits.forget(wait)

    # --- sending to everybody --------------------------------------------------------------------------------------

    async def notify(self, event_id: str, data: bytes, *, source: str | None = None) -> Notified:
        """Hand an event to every run that waits for it, or keep it."""
        mail = Mail(kind="event", subject=event_id, data=data, source=source)
        async with self._waits.lock(mail.token):
            woken = await self._wake_all(mail)
            if not woken and not await self._kept.has_source("", mail):
                await self._hub.store.change_items([self._kept.put("", mail)])
                self._kept.count += 1
        return Notified(run_ids=tuple(woken), kept=not woken)

    async def _wake_all(self, mail: Mail) -> list[str]:
        waiting = {runner.run_id: None for runner in self._waits.of(mail.token)}
        after = None
        while True:
            found = await self._hub.store.find_runs(RunQuery(waiting_for=mail.token, after=after))
            waiting.update((stored.record.run_id, None) for stored in found)
            if len(found) < RunQuery().limit:
                break
            after = found[-1].record.run_id
        ids, woken = list(waiting), list[str]()
        for start in range(0, len(ids), AT_ONCE):
            some = ids[start : start + AT_ONCE]
            taken = await asyncio.gather(*(self._waits.hand_to(run_id, mail) for run_id in some))
            woken += [run_id for run_id, ok in zip(some, taken, strict=True) if ok]
        return woken

    # --- sending to one run ----------------------------------------------------------------------------------------

    async def send(
        self,
        run_id: str,
        kind: Kind,
        subject: str,
        data: bytes,
        *,
        source: str | None = None,
        call_id: str | None = None,
    ) -> Notified:
        """Hand mail to one run, or keep it in the run's own mailbox. Durable on return.

        :param call_id: the same again is answered, and not delivered a second time
        :raises RunNotFoundError: no such run
        :raises RunEndedError: the run is over, and nothing will ever take it
        :raises EventsFullError: too much is kept already
        """
        mail = Mail(kind=kind, subject=subject, data=data, source=source)
        letter = Letter(mail, None if call_id is None else id_key(run_id, mail.token, call_id))
        box = (run_id, mail.token)
        waiting = self._letters.get(box)
        if waiting is not None:
            waiting.append(letter)
        else:
            letters = self._letters[box] = [letter]
            # A task of the engine's: what others have sent must not be dropped with a request that is cancelled.
            carrying = self._hub.spawn(self._carry(run_id, kind, subject, letters))
            carrying.add_done_callback(lambda _: self._carried(box, letters))
        # No deadline: the carrying task answers each letter, also when the engine ends, and calls only the store.
        return await letter.answer

    async def _carry(self, run_id: str, kind: Kind, subject: str, letters: list[Letter]) -> None:
        """Deliver what is sent to one mailbox, until nothing more has come."""
        while letters:
            async with self._waits.lock(place(kind, subject, run_id)):
                # Those whose senders have gone before anything was done for them are not delivered.
                some = [letter for letter in letters[:AT_ONCE] if not letter.answer.done()]
                del letters[:AT_ONCE]
                try:
                    await self._deliver(run_id, some)
                except Exception as error:  # noqa: BLE001 - whatever it is, those who wait for an answer must have it
                    for letter in some:
                        letter.refuse(error)
                finally:
                    _leave(some)
        # In one breath with having found nothing more: who comes now has it carried by another task.
        del self._letters[run_id, f"{kind}:{subject}"]

    def _carried(self, box: tuple[str, str], letters: list[Letter]) -> None:
        """The task is over. One that was cancelled, even before its first turn, leaves nobody waiting."""
        if self._letters.get(box) is letters:
            del self._letters[box]
        _leave(letters)

    async def _deliver(self, run_id: str, letters: Sequence[Letter]) -> None:
        if not letters:
            return
        token = letters[0].mail.token
        may_wait = self._is_live(run_id)
        if not may_wait:
            stored = await self._hub.store.get_run(run_id)
            if stored is None:
                raise RunNotFoundError(run_id)
            if stored.head.status.is_final:
                raise _over(run_id, stored.head.status, token)
            may_wait = self._hub.resident(run_id) is not None or token in stored.head.waiting
        new, known = await self._sorted(run_id, letters)
        rest = deque(new)
        if may_wait:
            await self._hand_out(run_id, token, rest)
        await self._keep(run_id, token, rest, known)

    async def _hand_out(self, run_id: str, token: str, rest: deque[Letter]) -> None:
        """Give the run's waits what comes first in *rest*.

        Those only that there are now: the waits that follow look for themselves at what is kept, and meanwhile the
        senders have their answers.
        """
        async with self._hub.hold(run_id) as runner:
            for owner in self._waits.of(token):
                if owner is not runner:
                    continue
                if not rest or not await self._waits.hand_to(run_id, rest[0].mail, rest[0].changes):
                    return
                rest.popleft().tell(Notified(run_ids=(run_id,)))

    async def _sorted(self, run_id: str, letters: Sequence[Letter]) -> tuple[list[Letter], list[Letter]]:
        """Those that have not come before, and those that have; each with the change that keeps its id."""
        new: list[Letter] = []
        known: list[Letter] = []
        keys: set[str] = set()
        for letter in letters:
            key = letter.id_key
            is_known = key is not None and (key in keys or await self._ids.has(key))
            if key is not None:
                keys.add(key)
                try:
                    letter.changes = tuple(self._ids.remember(run_id, key))
                except EventsFullError as error:
                    letter.refuse(error)
                    continue
            (known if is_known else new).append(letter)
        return new, known

    async def _keep(self, run_id: str, token: str, new: Iterable[Letter], known: Sequence[Letter]) -> None:
        """Keep what nobody waits for, by one change. A repeated letter is answered when what it repeats is durable."""
        changes: list[Change] = [change for letter in known for change in letter.changes]
        kept: list[Letter] = []
        again: list[Letter] = []
        for letter in new:
            if await self._kept.has_source(run_id, letter.mail):
                again.append(letter)
                continue
            try:
                changes.append(self._kept.put(run_id, letter.mail, beside=len(kept)))
            except EventsFullError as error:
                letter.refuse(error)
                continue
            changes += letter.changes
            kept.append(letter)
        if changes:
            await self._hub.store.change_items(changes)
            self._kept.count += len(kept)
        if kept:
            await self._refuse_if_over(run_id, token)
        for letter in (*kept, *again):
            letter.tell(Notified(kept=True))
        for letter in known:
            letter.tell(Notified())

    def _is_live(self, run_id: str) -> bool:
        """The run is in memory and has not begun to end: so much is known without asking the store."""
        runner = self._hub.resident(run_id)
        return runner is not None and not runner.is_over and not runner.execution.closed

    async def _refuse_if_over(self, run_id: str, token: str) -> None:
        """The run may have ended while its mail was kept: nothing will ever take it, and the sender is told so."""
        if self._is_live(run_id):
            return
        stored = await self._hub.store.get_run(run_id)
        if stored is not None and stored.head.status.is_final:
            await self._hub.store.change_items(await self.closing_changes(run_id))
            raise _over(run_id, stored.head.status, token)

    # --- housekeeping ------------------------------------------------------------------------------------------------

    async def recover(self) -> None:
        """After a start, before anything is driven: count what is kept, then wake who waits for some of it."""
        await self._ids.recover()
        self._hub.spawn(self._wake_waiting(await self._kept.recover()))

    async def _wake_waiting(self, kept: Iterable[Kept]) -> None:
        # It had been kept, but was not handed over before the engine ended.
        tokens = {(one.owner, f"{one.kind}:{one.subject}"): None for one in kept}
        for owner, token in tokens:
            found = await self._hub.store.find_runs(RunQuery(waiting_for=token))
            for stored in reversed(found):
                if not owner or stored.record.run_id == owner:
                    await self._hub.rouse(stored.record.run_id)

    def put_back(self, run_id: str, mail: Sequence[Mail], seq: int) -> list[Change]:
        """Changes that put mail back to the front of a run's mailbox, in its order.

        :param seq: the position of the resumption: the later one's mail had been taken first
        """
        return self._kept.put_back(run_id, mail, seq)

    async def drop_expired(self) -> None:
        """Forget kept mail whose time is over, and ids of calls that came long ago."""
        await self._kept.drop_expired()
        if gone := self._ids.drop(self._hub.clock.now()):
            await self._hub.store.change_items(gone)

    async def closing_changes(self, run_id: str) -> list[Change]:
        """What goes when the run ends: its mailbox, and the ids of the calls that came for it."""
        return [*await self._kept.closing_changes(run_id), *await self._ids.closing_changes(run_id)]


def _leave(letters: Sequence[Letter]) -> None:
    """Whoever still waits for an answer learns that there will be none."""
    for letter in letters:
        letter.refuse(StoreClosedError("the engine has been stopped; whether this was kept is unknown, send it again"))


def _over(run_id: str, status: RunStatus, token: str) -> RunEndedError:
    return RunEndedError(f"run {run_id!r} is over ({status}); nothing waits for {token!r} there")
