"""How is a process of a box in memory started? By what its words ask for, and what the script answers to that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from boxflow.boxes.job_script import EXIT_NO_INPUT
from boxflow.ports import ProcessSpec
from boxflow.testing.errors import UnansweredError
from boxflow.testing.fake_sandbox.boxes import FakeBox
from boxflow.testing.fake_sandbox.commands import FakeCommand
from boxflow.testing.fake_sandbox.file_tree import HOME
from boxflow.testing.fake_sandbox.jobs import FakeJob, JobAnswers
from boxflow.testing.fake_sandbox.process import FakeProcess
from boxflow.testing.fake_sandbox.words import AgentPreparation, BoxInit, JobQuestion, UserCommand, asked, text_of

_NOT_FOUND: Final = 127
_INIT_MARK: Final = f"{HOME}/.boxflow-init"


class Spawning:
    """Starts the processes of boxes in memory.

    :param commands: where users' commands are kept
    :param answer_to: what answers a command; None when nothing does
    :param has_program: whether the boxes have a program of that name
    """

    def __init__(
        self,
        commands: list[FakeCommand],
        answer_to: Callable[[FakeCommand], object],
        has_program: Callable[[str], bool],
    ) -> None:
        self._commands = commands
        self._answer_to = answer_to
        self._has_program = has_program

    def spawn(self, box: FakeBox, spec: ProcessSpec) -> FakeProcess:
        """Start what *spec* asks for.

        :raises UnansweredError: nothing answers the command
        """
        box.processes = [each for each in box.processes if not each.ended.done()]
        match asked(spec.argv):
            case UserCommand():
                return self._user_command(box, spec)
            case JobQuestion() as question:
                return self._question(box, spec, question)
            case BoxInit(argv=argv):
                return self._init(box, spec, argv)
            case AgentPreparation() as preparation:
                return self._prepare(box, spec, preparation)

    def _user_command(self, box: FakeBox, spec: ProcessSpec) -> FakeProcess:
        command = _command(box, spec, text_of(spec.argv))
        answer = self._answer(command)
        return _started(box, FakeProcess(command, spec, lambda running: running.carry_out(answer)))

    def _answer(self, command: FakeCommand) -> object:
        """What answers *command*, which counts as started from here on."""
        answer = self._answer_to(command)
        if answer is None:
            raise UnansweredError(
                f"no rule answers the command {command.command!r} in box {command.box.name!r}; "
                f"answer it: sandbox.on({command.command!r}, stdout=..., exit_code=0)"
            )
        if isinstance(answer, Exception):
            raise answer
        self._commands.append(command)
        return answer

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def _question(self, box: FakeBox, spec: ProcessSpec, question: JobQuestion) -> FakeProcess:
        found = box.jobs.get(question.name)
        if found is None and question.starts and question.input_size == "-":
            # Before there is a process to ask: what nobody answers is the caller's error, and no job.
            found = self._start_job(box, spec, question, b"")

        async def answer(command: FakeCommand) -> int:
            job = found
            if job is None and question.starts:
                data = await command.read()
                if len(data) != int(question.input_size):
                    return EXIT_NO_INPUT
                job = box.jobs.get(question.name) or self._start_job(box, spec, question, data)
            return await JobAnswers(box, question, job, box.time).answer(command)

        return _started(box, FakeProcess(_command(box, spec, text_of(spec.argv)), spec, answer))

    def _start_job(self, box: FakeBox, spec: ProcessSpec, question: JobQuestion, data: bytes) -> FakeJob:
        inner = ProcessSpec(argv=question.argv, cwd=spec.cwd, env=spec.env, user=spec.user, exec_id=spec.exec_id)
        command = _command(box, inner, text_of(question.argv))
        answer = self._answer(command)
        if data:
            command.give(data)

        async def work(running: FakeCommand) -> int:
            running.output = job.write
            status = await running.carry_out(answer)
            job.note_exit(status, box.time.now(), "ended")
            return status

        process = _started(box, FakeProcess(command, inner, work))
        job = FakeJob(question.about, process, box.time.now())
        process.ended.add_done_callback(lambda _: job.news.set())
        box.jobs[question.name] = job
        return job

    # --- boxflow's own ------------------------------------------------------------------------------------------------

    def _init(self, box: FakeBox, spec: ProcessSpec, argv: tuple[str, ...]) -> FakeProcess:
        command = _command(box, attrs.evolve(spec, argv=argv), text_of(argv))
        answer: object = None if box.files.exists(_INIT_MARK) else self._answer(command)

        async def work(running: FakeCommand) -> int:
            status = await running.carry_out(answer)
            if status == 0:
                box.files.write(_INIT_MARK, b"")
            return status

        return _started(box, FakeProcess(command, spec, work))

    def _prepare(self, box: FakeBox, spec: ProcessSpec, preparation: AgentPreparation) -> FakeProcess:
        async def work(running: FakeCommand) -> int:
            for directory in preparation.directories:
                box.files.make_directory(f"{HOME}/{directory}")
            running.write(f"{HOME}\n")
            if not self._has_program(preparation.program):
                return _NOT_FOUND
            running.write(f"/usr/local/bin/{preparation.program}\n")
            return 0

        return _started(box, FakeProcess(_command(box, spec, "prepare an agent"), spec, work))


def _command(box: FakeBox, spec: ProcessSpec, text: str) -> FakeCommand:
    return FakeCommand(
        box, text, spec.argv, cwd=spec.cwd or "", env={**box.env, **spec.env}, user=spec.user or box.spec.user
    )


def _started(box: FakeBox, process: FakeProcess) -> FakeProcess:
    box.processes.append(process)
    return process
