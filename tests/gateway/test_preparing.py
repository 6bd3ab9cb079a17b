"""What is changed in a request, and which requests go no further."""

from __future__ import annotations

import json
from typing import Any

import pytest

from boxflow.gateway.endpoints import Metering
from boxflow.gateway.preparing import Prepared, prepare
from boxflow.gateway.problems import Kind, Problem


def prepared(metering: Metering, body: Any, left: int | None = None) -> Any:
    found = prepare(metering, body if isinstance(body, bytes) else json.dumps(body).encode(), left)
    return json.loads(found.body)


def refusal(metering: Metering, body: Any, left: int | None = None) -> Problem:
    with pytest.raises(Problem) as caught:
        prepared(metering, body, left)
    return caught.value


def test_without_limits_a_request_says_what_it_said() -> None:
    body = b'{"model": "m", "max_tokens": 32000, "messages": [{"content": "h\\u00e9 "}], "temperature": 0.10}'
    found = prepare(Metering.MESSAGES, body, None)
    assert json.loads(found.body) == json.loads(body)
    assert b"h\\u00e9" in found.body and b"0.10" in found.body


@pytest.mark.parametrize(
    ("metering", "field"),
    [
        (Metering.MESSAGES, "max_tokens"),
        (Metering.CHAT, "max_completion_tokens"),
        (Metering.CHAT, "max_tokens"),
        (Metering.RESPONSES, "max_output_tokens"),
    ],
)
def test_a_request_may_ask_for_what_is_left_at_most(metering: Metering, field: str) -> None:
    assert prepared(metering, {field: 5000}, 1000) == {field: 1000}
    assert prepared(metering, {field: 500}, 1000) == {field: 500}
    for trick in ("5000", 5e3, True, None, [5000]):
        assert prepared(metering, {field: trick}, 1000) == {field: 1000}


def test_a_request_without_a_limit_gets_one() -> None:
    assert prepared(Metering.CHAT, {}, 1000) == {"max_completion_tokens": 1000}
    assert prepared(Metering.RESPONSES, {}, 1000) == {"max_output_tokens": 1000}
    assert prepared(Metering.USAGE_ONLY, {}, 1000) == {}


def test_several_answers_share_what_is_left() -> None:
    assert prepared(Metering.CHAT, {"n": 4, "max_tokens": 900}, 1000) == {"n": 4, "max_tokens": 250}


def test_no_second_limit_hides_behind_the_first() -> None:
    assert prepared(Metering.MESSAGES, b'{"max_tokens": 10, "max_tokens": 9000}', 1000) == {"max_tokens": 1000}
    assert (
        prepare(Metering.MESSAGES, b'{"max_tokens": 9000, "m\\u0061x_tokens": 20}', 1000).body == b'{"max_tokens":20}'
    )
    assert refusal(Metering.MESSAGES, {"max_tokens": 10, "Max_Tokens": 9000}, 1000).kind is Kind.BAD_REQUEST


def test_thinking_stays_below_the_limit() -> None:
    thinking = {"type": "enabled", "budget_tokens": 30_000}
    found = prepared(Metering.MESSAGES, {"max_tokens": 32_000, "thinking": thinking}, 10_000)
    assert found == {"max_tokens": 10_000, "thinking": {"type": "enabled", "budget_tokens": 5000}}
    adaptive = {"max_tokens": 10_000, "thinking": {"type": "adaptive"}}
    assert prepared(Metering.MESSAGES, adaptive, 10_000) == adaptive
    assert refusal(Metering.MESSAGES, {"max_tokens": 32_000, "thinking": thinking}, 2000).kind is Kind.NO_CREDIT


def test_too_little_is_no_credit() -> None:
    problem = refusal(Metering.RESPONSES, {}, 15)
    assert problem.kind is Kind.NO_CREDIT
    assert problem.message == "boxflow: the limits of this run leave 15 output tokens, too few for an answer"


def test_what_answers_later_cannot_be_metered() -> None:
    assert refusal(Metering.RESPONSES, {"background": True}).kind is Kind.BAD_REQUEST
    assert refusal(Metering.RESPONSES, {"background": "true"}).kind is Kind.BAD_REQUEST
    assert prepared(Metering.RESPONSES, {"background": False}) == {"background": False}


@pytest.mark.parametrize("body", [b"", b"[1]", b"null", b'{"a": 1', b'{"a": 1} {"a": 2}', b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_goes_no_further(body: bytes) -> None:
    assert refusal(Metering.CHAT, body).message == "boxflow: the body of the request is no JSON object"


def hides(body: Any) -> Prepared:
    return prepare(Metering.CHAT, json.dumps(body).encode(), None)


def test_a_streamed_chat_is_asked_for_its_usage() -> None:
    found = hides({"stream": True, "stream_options": {"other": 1, "include_usage": False}})
    assert found.hides_usage
    assert json.loads(found.body)["stream_options"] == {"other": 1, "include_usage": True}
    assert not hides({"stream": True, "stream_options": {"include_usage": True}}).hides_usage
    assert not hides({"stream": False}).hides_usage
    assert hides({"stream": True}).hides_usage


def test_files_in_a_request_are_not_counted_as_text() -> None:
    text = {"role": "user", "content": "word " * 8000}
    image = {"role": "user", "content": "iVBORw0KGgo" * 8000}
    found = prepare(Metering.RESPONSES, json.dumps({"input": [text, image]}).encode(), None)
    assert 10_000 <= found.input_estimate < 10_050
