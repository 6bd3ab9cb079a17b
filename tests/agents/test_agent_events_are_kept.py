"""The result of an agent's run has what it did: in order, bounded, the same from the journal as from the world."""

from __future__ import annotations

from pathlib import Path

from agents.line_agent import LineAgent
from behaviour.support import in_memory

from boxflow import Boxes, Context, workflow
from boxflow.boxes.kept_events import MAX_KEPT_CHARS, MAX_TEXT_CHARS, KeptEvents
from boxflow.harness import AgentEvent, Finished, Notice, SessionStarted, TextDelta, ToolCall, ToolResult
from boxflow_backends.local_sandbox import LocalSandbox

LINE = LineAgent()


def kept(*events: AgentEvent) -> tuple[AgentEvent, ...]:
    collected = KeptEvents()
    for event in events:
        collected.add(event)
    return collected.all()


async def test_a_result_has_the_events_that_led_to_it(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes, boxes.create("agents") as box:
        run = await box.agent.run("raw {torn\nsay two\nresult null", agent=LINE)
    torn = Notice(message="not understood: {torn")
    assert run.events == (SessionStarted(session_id="s1"), torn, TextDelta(text="two"))


async def test_the_journal_keeps_them(tmp_path: Path) -> None:
    @workflow
    async def asked(ctx: Context, _: None) -> list[str]:
        async with ctx.box("worker") as box:
            run = await box.agent.run("raw {torn\nsay two\nresult null", agent=LINE)
            return [type(event).__name__ for event in run.events]

    async with in_memory(sandbox=LocalSandbox(tmp_path), max_resident_runs=0).running(asked) as engine:
        assert await engine.run(asked) == ["SessionStarted", "Notice", "TextDelta"]


def test_the_pieces_of_a_text_become_one() -> None:
    assert kept(TextDelta(text="a"), TextDelta(text="b"), Finished()) == (TextDelta(text="ab"),)


def test_long_texts_are_cut_wherever_they_are() -> None:
    long = "x" * 100_000
    written = {"path": "a.py", "content": long}
    text, call, result, odd = kept(
        TextDelta(text=long),
        ToolCall(call_id="1", name="Write", input=written),
        ToolResult(call_id="1", output=long),
        ToolCall(call_id="2", name="Odd", input=[[long]]),
    )
    assert isinstance(text, TextDelta) and len(text.text) == MAX_TEXT_CHARS
    assert isinstance(call, ToolCall) and call.input["path"] == "a.py" and len(call.input["content"]) == MAX_TEXT_CHARS
    assert isinstance(result, ToolResult) and len(result.output) == MAX_TEXT_CHARS
    assert isinstance(odd, ToolCall) and len(odd.input) == MAX_TEXT_CHARS


def test_what_is_left_out_is_counted_and_can_be_read_elsewhere() -> None:
    events = kept(*(ToolResult(call_id=str(n), output="y" * MAX_TEXT_CHARS) for n in range(1000)))
    assert len(events) < MAX_KEPT_CHARS / MAX_TEXT_CHARS + 2
    left_out = 1000 - (len(events) - 1)
    assert events[-1] == Notice(message=f"{left_out} more events; `box.agent.attach` of this run's id gives them all")
