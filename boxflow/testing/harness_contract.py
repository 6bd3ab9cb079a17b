"""What every harness must do, as tests: subclass `HarnessContract` with your harness and recorded runs of its program.

    from boxflow.testing.harness_contract import HarnessContract, Recording

    class TestMyHarness(HarnessContract):
        def make_harness(self):
            return MyHarness()

        def recordings(self):
            return {"success": Recording(lines=..., finished=Finished(text="Done.", ...)), ...}

No program is run: a harness is pure. Recordings are what a program really printed, of as many kinds of runs as there
are: each error of its model's service, limits, a session that is continued. Besides pytest, the suite needs hypothesis.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, cast, get_args

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boxflow.errors import ConfigurationError
from boxflow.harness import AgentEvent, AgentFailure, AgentRequest, EventReader, Finished, Harness, Launch, Notice

_ARGUMENT_LIMIT: Final = 128 * 1024
"""Bytes; a longer argument or variable makes Linux refuse the program (MAX_ARG_STRLEN)."""

_PROMPT: Final = "Fix the bug äöü.\n\nIt is in 'x'; run \"make\" to see."
_SCHEMA: Final = {
    "type": "object",
    "properties": {"title-of-the-answer": {"type": "string", "pattern": "^{home}$"}},
    "required": ["title-of-the-answer"],
}
_SECRET: Final = "sk-boxflow-contract-secret"  # noqa: S105  # a value to look for
_BASE_URL: Final = "http://127.0.0.1:4321/v1"

# Fixed examples: a suite that fails one time in a hundred tells its reader nothing about the change before him.
_examples = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    # One test is run for many harnesses: that is what a contract is.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.differing_executors],
)
_JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["success", "done", "error", "text", "\ud83d", "1e999"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@attrs.frozen(kw_only=True)
class Recording:
    """What a program printed in one run, and what it means.

    :param lines: its output, without newlines
    :param finished: what `EventReader.end` gives for it
    :param request: what was asked for; the prompt says nothing to a reader
    """

    lines: Sequence[str]
    finished: Finished
    exit_code: int = 0
    stderr: str = ""
    request: AgentRequest = attrs.field(factory=lambda: AgentRequest(prompt="recorded"))


class HarnessContract:
    """The duties of a harness, one test each.

    :cvar options: what every request must have
    :cvar model: a model that it takes
    :cvar session: a session that it takes; None when its program has no sessions
    :cvar ends_by_exit: its program ends without a word about it, so that its exit status alone tells success
    :cvar prompt_in_argv: the program wants it there
    """

    options: ClassVar[Mapping[str, Any]] = {}
    model: ClassVar[str] = "some-model"
    session: ClassVar[str | None] = "5f3b7d0e-7b0c-4c55-9d0a-0d2a37f0a001"
    ends_by_exit: ClassVar[bool] = False
    prompt_in_argv: ClassVar[bool] = False

    def make_harness(self) -> Harness:
        """The harness."""
        raise NotImplementedError("a subclass of HarnessContract says how its harness is made")

    def recordings(self) -> Mapping[str, Recording]:
        """Runs by name; one at least that succeeded, and one that failed."""
        raise NotImplementedError("a subclass of HarnessContract has recorded runs of its program")

    def request(self, **fields: Any) -> AgentRequest:
        """A request with *fields*, and with what this harness needs."""
        options = {**self.options, **fields.get("options", {})}
        every: dict[str, Any] = {"prompt": _PROMPT, "model": self.model, **fields, "options": options}
        return AgentRequest(**every)

    # --- launching ---------------------------------------------------------------------------------------------------

    def test_it_says_what_it_drives(self) -> None:
        harness = self.make_harness()
        assert harness.name and harness.name == harness.name.lower()
        assert harness.installation.manager in {"", "npm", "pypi"}
        assert bool(harness.installation.manager) == bool(harness.installation.package)
        if harness.program:
            assert self.make_harness().launch(self.request()).argv[0] == harness.program

    def test_the_same_request_gives_the_same_launch(self) -> None:
        request = self.request(session=self.session, schema=_SCHEMA, base_url=_BASE_URL, api_key=_SECRET)
        harness = self.make_harness()
        assert harness.launch(request) == harness.launch(request) == self.make_harness().launch(request)

    def test_the_prompt_reaches_the_program_as_it_is(self) -> None:
        if self.prompt_in_argv:
            assert _PROMPT in self.make_harness().launch(self.request()).argv
            return
        prompt = _PROMPT + " Put it into {dir}."
        launch = self.make_harness().launch(self.request(prompt=prompt))
        assert launch.stdin.startswith(prompt.encode())
        # Everybody on the machine can read arguments, and in all of these the braces are replaced.
        for place in (launch.argv, launch.env.values(), launch.files.values()):
            assert not any(_PROMPT[:20] in text for text in place)

    def test_no_brace_of_a_prompt_becomes_a_path(self) -> None:
        try:
            launch = self.make_harness().launch(self.request(prompt="print('{home}')"))
        except ConfigurationError:
            assert self.prompt_in_argv
            return
        assert launch.stdin.startswith(b"print('{home}')")

    def test_a_prompt_of_a_megabyte_is_handed_over_or_refused(self) -> None:
        prompt = "long " * 200_000
        if self.prompt_in_argv:
            with pytest.raises(ConfigurationError, match="prompt"):
                self.make_harness().launch(self.request(prompt=prompt))
            return
        launch = self.make_harness().launch(self.request(prompt=prompt))
        assert launch.stdin.startswith(prompt.encode())
        _check_sizes(launch)

    def test_a_schema_of_a_megabyte_is_handed_over_or_refused(self) -> None:
        schema = {**_SCHEMA, "description": "long " * 200_000}
        try:
            launch = self.make_harness().launch(self.request(schema=schema))
        except ConfigurationError:
            return
        _check_sizes(launch)

    def test_the_schema_reaches_the_program(self) -> None:
        launch = self.make_harness().launch(self.request(schema=_SCHEMA, prompt="Do it."))
        places = [*launch.argv, *launch.env.values(), *launch.files.values(), launch.stdin.decode()]
        assert any("title-of-the-answer" in text for text in places)

    def test_no_brace_of_a_schema_becomes_a_path(self) -> None:
        launch = self.make_harness().launch(self.request(schema=_SCHEMA, prompt="Do it."))
        for text in (*launch.argv, *launch.env.values(), *launch.files.values()):
            assert "^{home}$" not in text

    def test_the_key_is_in_the_environment_and_nowhere_else(self) -> None:
        launch = self.make_harness().launch(self.request(api_key=_SECRET, base_url=_BASE_URL))
        assert _SECRET in launch.env.values()
        assert not any(_SECRET in text for text in (*launch.argv, *launch.files.values()))
        assert _SECRET.encode() not in launch.stdin
        assert not any(_SECRET in value for value in launch.env.values() if value != _SECRET)

    def test_without_a_key_none_is_made_up(self) -> None:
        assert not any("KEY" in name for name in self.make_harness().launch(self.request()).env)

    def test_where_the_model_is_reaches_the_program(self) -> None:
        launch = self.make_harness().launch(self.request(base_url=_BASE_URL))
        assert any(_BASE_URL in text for text in (*launch.argv, *launch.env.values(), *launch.files.values()))

    def test_the_model_reaches_the_program(self) -> None:
        launch = self.make_harness().launch(self.request(base_url=_BASE_URL))
        assert any(self.model in text for text in (*launch.argv, *launch.env.values(), *launch.files.values()))

    def test_the_session_reaches_the_program(self) -> None:
        if self.session is None:
            return
        launch = self.make_harness().launch(self.request(session=self.session))
        assert any(self.session in text for text in (*launch.argv, *launch.env.values()))

    @pytest.mark.parametrize("session", ["--help", "-", "-x", " ", ""])
    def test_a_session_is_never_read_as_an_option(self, session: str) -> None:
        """A session id comes from users, as a web page's form."""
        argv = self.make_harness().launch(self.request()).argv
        try:
            launch = self.make_harness().launch(self.request(session=session))
        except ConfigurationError:
            return
        assert list(launch.argv).count(session) == list(argv).count(session)

    def test_an_option_that_it_does_not_know_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="no_such_option") as caught:
            self.make_harness().launch(self.request(options={"no_such_option": 1}))
        assert self.make_harness().name in str(caught.value)

    def test_an_option_of_the_wrong_type_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="env"):
            self.make_harness().launch(self.request(options={"env": 7}))

    def test_variables_can_be_added(self) -> None:
        launch = self.make_harness().launch(self.request(options={"env": {"EXTRA": "1"}}))
        assert launch.env["EXTRA"] == "1"

    # --- reading -----------------------------------------------------------------------------------------------------

    def test_each_recording_means_what_it_should(self) -> None:
        recordings = self.recordings()
        assert any(one.finished.failure is None for one in recordings.values())
        assert any(one.finished.failure is not None for one in recordings.values())
        for name, recording in recordings.items():
            _, finished = self._read(recording)
            assert finished == recording.finished, name

    def test_a_failure_says_why(self) -> None:
        for name, recording in self.recordings().items():
            _, finished = self._read(recording)
            assert (finished.failure is not None) == bool(finished.message), name

    def test_the_same_lines_give_the_same_events(self) -> None:
        for name, recording in self.recordings().items():
            assert self._read(recording) == self._read(recording), name

    def test_an_end_comes_once_and_is_the_end(self) -> None:
        for name, recording in self.recordings().items():
            events, _ = self._read(recording)
            ends = [event for event in events if isinstance(event, Finished)]
            assert len(ends) <= 1, name
            assert not ends or events[-1] == ends[0], name

    def test_what_is_told_can_be_kept_as_json(self) -> None:
        for recording in self.recordings().values():
            events, finished = self._read(recording)
            _check_events([*events, finished])

    def test_no_prefix_of_a_success_is_a_success(self) -> None:
        """A stream that was cut, by a full disk or a kill, must not look like the work that it cut."""
        for name, recording in self.recordings().items():
            if recording.finished.failure is not None or self.ends_by_exit:
                continue
            lines = [*recording.lines]
            while lines and not lines[-1].strip():
                lines.pop()
            for length in range(len(lines)):
                cut = attrs.evolve(recording, lines=lines[:length])
                assert self._read(cut)[1].failure is not None, (name, length)
            half = attrs.evolve(recording, lines=[*lines[:-1], lines[-1][: len(lines[-1]) // 2]])
            assert self._read(half)[1].failure is not None, name

    def test_no_output_at_all_is_no_success(self) -> None:
        for exit_code in (1, 2, 127, 137, 143) if self.ends_by_exit else (0, 1, 2, 127, 137, 143):
            finished = self.make_harness().reader(self.request()).end(exit_code, "boom happened")
            assert finished.failure is not None
            assert finished.message

    @pytest.mark.parametrize("exit_code", [130, 137, 143])
    def test_a_program_that_was_killed_is_interrupted(self, exit_code: int) -> None:
        for name, recording in self.recordings().items():
            if recording.finished.failure is None and recording.lines:
                cut = attrs.evolve(recording, lines=recording.lines[:1], exit_code=exit_code, stderr="")
                assert self._read(cut)[1].failure is AgentFailure.INTERRUPTED, name

    def test_a_result_that_is_followed_by_a_crash_is_a_failure_that_keeps_its_text(self) -> None:
        for name, recording in self.recordings().items():
            if recording.finished.failure is None:
                _, finished = self._read(attrs.evolve(recording, exit_code=3, stderr="it broke: disk full"))
                assert finished.failure is not None, name
                assert "disk full" in finished.message, name
                assert finished.text == recording.finished.text, name

    def test_noise_between_the_lines_changes_no_result(self) -> None:
        if self.ends_by_exit:
            return  # there, everything is the result
        for name, recording in self.recordings().items():
            lines = [noisy for line in recording.lines for noisy in ("Warning: something!", '{"type":', "", line)]
            if recording.lines and ":" not in recording.lines[0][:10]:
                assert self._read(attrs.evolve(recording, lines=lines))[1] == recording.finished, name

    def test_a_huge_line_is_taken_and_a_notice_of_it_is_short(self) -> None:
        for line in ("x" * 8_000_000, '{"type": "' + "x" * 8_000_000, "[" * 1_000_000):
            reader = self.make_harness().reader(self.request())
            for event in reader.feed(line):
                assert not isinstance(event, Notice) or len(event.message) < 2_000
            reader.end(1, line)

    @_examples
    @given(
        st.lists(st.text() | st.binary().map(lambda data: data.decode(errors="surrogateescape")), max_size=8), st.data()
    )
    def test_garbage_is_never_an_error_and_never_a_success(self, lines: list[str], data: st.DataObject) -> None:
        reader = self.make_harness().reader(self.request(schema=data.draw(st.sampled_from([None, _SCHEMA]))))
        events = [event for line in lines for event in reader.feed(line)]
        finished = reader.end(data.draw(st.sampled_from([0, 1, 143, 255])), data.draw(st.text(max_size=50)))
        _check_events([*events, finished])
        assert finished.failure is not None or self.ends_by_exit

    @_examples
    @given(st.data())
    def test_output_of_another_shape_is_never_an_error(self, data: st.DataObject) -> None:
        """As of the next version of the program: a value that has another type, or is missing."""
        recording = data.draw(st.sampled_from([one for one in self.recordings().values() if one.lines]))
        lines = [_changed(line, data) if data.draw(st.booleans()) else line for line in recording.lines]
        events, finished = self._read(attrs.evolve(recording, lines=lines))
        _check_events([*events, finished])

    @_examples
    @given(st.data())
    def test_a_line_that_is_cut_is_never_an_error(self, data: st.DataObject) -> None:
        recording = data.draw(st.sampled_from([one for one in self.recordings().values() if one.lines]))
        lines = [line[: data.draw(st.integers(0, len(line)))] for line in recording.lines]
        events, finished = self._read(attrs.evolve(recording, lines=lines))
        _check_events([*events, finished])

    def _read(self, recording: Recording) -> tuple[list[AgentEvent], Finished]:
        options = {**self.options, **recording.request.options}
        reader: EventReader = self.make_harness().reader(attrs.evolve(recording.request, options=options))
        events = [event for line in recording.lines for event in reader.feed(line)]
        return events, reader.end(recording.exit_code, recording.stderr)


def _check_sizes(launch: Launch) -> None:
    texts = [*launch.argv, *(f"{name}={value}" for name, value in launch.env.items())]
    assert all(len(text.encode()) < _ARGUMENT_LIMIT for text in texts)


def _check_events(events: Sequence[AgentEvent]) -> None:
    """They are what they are said to be, and a journal can keep them: no half characters, no infinite numbers."""
    for event in events:
        assert isinstance(event, get_args(AgentEvent))
        json.dumps(attrs.asdict(event), ensure_ascii=False, allow_nan=False).encode()
        if isinstance(event, Finished):
            assert all(isinstance(count, int) and count >= 0 for count in attrs.astuple(event.usage))
            assert event.cost_usd is None or math.isfinite(event.cost_usd)


def _changed(line: str, data: st.DataObject) -> str:
    """*line* with another value somewhere in its JSON."""
    start = line.find("{")
    try:
        document = json.loads(line[start:]) if start >= 0 else None
    except ValueError:
        document = None
    if document is None:
        return data.draw(st.text(max_size=20))
    return line[:start] + json.dumps(_replaced(document, data))


def _replaced(value: object, data: st.DataObject) -> object:
    """*value* with something in it gone or made into something else; or something else instead of it."""
    if not value or not isinstance(value, dict | list) or data.draw(st.integers(0, 4)) == 0:
        return data.draw(_JUNK)
    if isinstance(value, list):
        items = cast("list[object]", value)
        place = data.draw(st.integers(0, len(items) - 1))
        return [*items[:place], _replaced(items[place], data), *items[place + 1 :]]
    fields = cast("dict[str, object]", value)
    key = data.draw(st.sampled_from(sorted(fields)))
    if data.draw(st.booleans()):
        return {**fields, key: _replaced(fields[key], data)}
    return {name: field for name, field in fields.items() if name != key}
