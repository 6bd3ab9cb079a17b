"""The key: looked up when it is needed, and made stars of on its way back."""

from __future__ import annotations

import pytest
from gateway.harness import KEY, SECRETS

from boxflow.gateway.keys import KeyTemplate, KeyUnusableError, Redactor, credentials
from boxflow.harness import ModelApi


def test_a_key_is_looked_up_when_it_is_needed() -> None:
    assert KeyTemplate("$MODEL_KEY").fill(SECRETS) == KEY
    assert KeyTemplate("${MODEL_KEY}").fill(SECRETS) == KEY
    assert KeyTemplate("").fill(SECRETS) == ""


@pytest.mark.parametrize(
    ("template", "secrets", "says"),
    [
        ("$OTHER", SECRETS, "variable 'OTHER' is not set where the engine runs; set it there"),
        ("$MODEL_KEY", {"MODEL_KEY": ""}, "variable 'MODEL_KEY' is not set where the engine runs; set it there"),
        (
            "$MODEL_KEY",
            {"MODEL_KEY": KEY + "\r\nx: y"},
            "it has blanks, line breaks or other characters that no key has",
        ),
        (KEY, SECRETS, "it names no variable; write `$NAME` and set NAME where the engine runs"),
    ],
)
def test_a_key_that_cannot_be_used_says_why_and_not_what_it_is(
    template: str, secrets: dict[str, str], says: str
) -> None:
    with pytest.raises(KeyUnusableError) as caught:
        KeyTemplate(template).fill(secrets)
    assert str(caught.value) == says
    assert KEY not in repr(KeyTemplate(template))


def test_each_interface_has_its_own_header() -> None:
    assert credentials(ModelApi.ANTHROPIC, "k") == [(b"x-api-key", b"k")]
    assert credentials(ModelApi.OPENAI, "k") == [(b"Authorization", b"Bearer k")]
    assert credentials(ModelApi.OPENAI, "") == []


@pytest.mark.parametrize("step", range(1, 40))
def test_the_key_does_not_come_back_in_whatever_pieces(step: int) -> None:
    text = f"sk-test {KEY}{KEY} sk-test-7f3a sk-{KEY}sk".encode()
    redactor = Redactor(KEY.encode())
    out = b"".join(redactor.feed(text[at : at + step]) for at in range(0, len(text), step)) + redactor.end()
    assert out == text.replace(KEY.encode(), b"*" * len(KEY))


def test_a_word_that_is_no_key_is_left_alone() -> None:
    redactor = Redactor(b"data")
    assert redactor.feed(b"data: {}\n\nda") == b"data: {}\n\nda"


def test_nothing_is_held_back_that_cannot_be_a_key() -> None:
    redactor = Redactor(KEY.encode())
    assert redactor.feed(b"data: {}\n\n") == b"data: {}\n\n"
