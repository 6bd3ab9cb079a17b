"""How many tokens a request took, read from answers of all shapes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gateway.harness import (
    ANTHROPIC,
    OPENAI,
    anthropic_message,
    anthropic_stream,
    chat_chunk,
    chat_usage,
    response_usage,
    responses_stream,
)

from boxflow.gateway.metering import Meter
from boxflow.gateway.spending import Tokens
from boxflow.harness import ModelApi


def stream(*events: Any, ends: str = "\n\n") -> bytes:
    return "".join(f"data: {one if isinstance(one, str) else json.dumps(one)}{ends}" for one in events).encode()


def metered(
    api: ModelApi, answer: bytes, kind: str, *, step: int = 10_000, hides_usage: bool = False
) -> tuple[Meter, bytes]:
    meter = Meter(api, 700, hides_usage)
    meter.begin(kind)
    shown = b"".join(meter.feed(answer[at : at + step]) for at in range(0, len(answer), step))
    return meter, shown + meter.end()


SSE, JSON = "text/event-stream; charset=utf-8", "application/json"

CASES = {
    "messages": (ANTHROPIC, json.dumps(anthropic_message(read=50, written=7)).encode(), JSON, (1200, 50, 7, 34)),
    "messages stream": (ANTHROPIC, stream(*anthropic_stream(read=50, written=7)), SSE, (1200, 50, 7, 34)),
    "chat": (OPENAI, json.dumps({"choices": [], "usage": chat_usage(cached=200)}).encode(), JSON, (1000, 200, 0, 34)),
    "chat stream": (
        OPENAI,
        stream(chat_chunk("Hello"), {"choices": [], "usage": chat_usage(cached=200)}, "[DONE]"),
        SSE,
        (1000, 200, 0, 34),
    ),
    "chat stream that counts on": (
        OPENAI,
        stream(chat_chunk("a", chat_usage(completion=1)), chat_chunk("b", chat_usage(completion=2)), "[DONE]"),
        SSE,
        (1200, 0, 0, 2),
    ),
    "responses": (
        OPENAI,
        json.dumps({"output": [], "usage": response_usage(cached=200)}).encode(),
        JSON,
        (1000, 200, 0, 34),
    ),
    "responses stream": (OPENAI, stream(*responses_stream(cached=200)), SSE, (1000, 200, 0, 34)),
    "embeddings": (OPENAI, json.dumps({"data": [], "usage": {"prompt_tokens": 8}}).encode(), JSON, (8, 0, 0, 0)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_the_usage_is_read_whatever_pieces_it_comes_in(case: str, step: int) -> None:
    api, answer, kind, (fresh, cached, written, output) = CASES[case]
    meter, shown = metered(api, answer, kind, step=step)
    assert meter.total() == Tokens(input=fresh, cached_input=cached, written_input=written, output=output)
    assert shown == answer


@pytest.mark.parametrize("ends", ["\n\n", "\r\n\r\n", "\r\r"])
def test_events_end_in_all_the_ways_of_the_standard(ends: str) -> None:
    meter, _ = metered(ANTHROPIC, stream(*anthropic_stream(), ends=ends), SSE, step=1)
    assert meter.total() == Tokens(input=1200, output=34)


def test_of_a_stream_that_is_cut_the_input_is_known_and_the_output_estimated() -> None:
    meter, _ = metered(ANTHROPIC, stream(*anthropic_stream("x" * 400)[:3]), SSE)
    assert meter.total() == Tokens(input=1200, output=100, estimated=True)


def test_thoughts_and_arguments_of_tools_are_output_too() -> None:
    deltas = [{"type": "thinking_delta", "thinking": "x" * 40}, {"type": "input_json_delta", "partial_json": "y" * 40}]
    events = [{"type": "content_block_delta", "delta": delta} for delta in deltas]
    calls = {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "z" * 40}}]}
    meter, _ = metered(ANTHROPIC, stream(*events), SSE)
    assert meter.total().output == 20
    meter, _ = metered(OPENAI, stream({"choices": [{"delta": calls}]}), SSE)
    assert meter.total().output == 10


def test_what_is_told_so_far_counts_before_the_end() -> None:
    meter = Meter(ANTHROPIC, 700)
    assert meter.seen() == Tokens()
    meter.begin(SSE)
    meter.feed(stream(*anthropic_stream("x" * 400)[:3]))
    assert meter.seen() == Tokens(input=1200, output=100)


def test_without_any_usage_both_are_estimated() -> None:
    meter, _ = metered(OPENAI, stream(chat_chunk("x" * 400), "[DONE]"), SSE)
    assert meter.total() == Tokens(input=700, output=100, estimated=True)
    meter, _ = metered(OPENAI, b'{"choices": "' + b"x" * 400 + b'"}', JSON)
    assert meter.total() == Tokens(input=700, output=103, estimated=True)


def test_an_answer_that_never_began_is_charged_by_the_request() -> None:
    assert Meter(ANTHROPIC, 700).total() == Tokens(input=700, estimated=True)


def test_a_usage_that_nobody_asked_for_is_not_shown() -> None:
    usage = {"choices": [], "usage": chat_usage()}
    answer = stream(chat_chunk("Hello"), usage, "[DONE]")
    for step in (1, 10_000):
        meter, shown = metered(OPENAI, answer, SSE, step=step, hides_usage=True)
        assert shown == stream(chat_chunk("Hello"), "[DONE]")
        assert meter.total() == Tokens(input=1200, output=34)


def test_an_event_too_large_to_be_kept_passes_by_unread() -> None:
    answer = stream(*anthropic_stream()[:2], {"type": "x", "big": "x" * 9_000_000}, *anthropic_stream()[2:])
    meter, shown = metered(ANTHROPIC, answer, SSE, step=65_536)
    assert shown == answer
    assert meter.total() == Tokens(input=1200, output=34)
    _, shown = metered(OPENAI, answer, SSE, step=65_536, hides_usage=True)
    assert shown == answer


def test_an_answer_too_large_to_be_kept_is_estimated() -> None:
    answer = json.dumps({"image": "x" * 5_000_000, "usage": response_usage()}).encode()
    meter, shown = metered(OPENAI, answer, JSON, step=65_536)
    assert shown == answer
    assert meter.total() == Tokens(input=700, output=len(answer) // 4, estimated=True)


@pytest.mark.parametrize(
    "strange",
    [
        {"usage": "none"},
        {"usage": {"input_tokens": "many", "output_tokens": []}},
        {"message": 3, "response": [], "choices": {}},
        {"delta": [[["x"]]]},
        "{",
        '{"usage": {"input_tokens": 1e999}}',
        "[" * 100_000,
    ],
)
def test_an_event_that_makes_no_sense_is_passed_on(strange: Any) -> None:
    answer = stream(strange, *anthropic_stream())
    meter, shown = metered(ANTHROPIC, answer, SSE)
    assert shown == answer
    assert meter.total() == Tokens(input=1200, output=34)
