"""Which requests are no turn of the script? What programs ask their model beside the work: titles, names, warm-ups."""

from __future__ import annotations

import json
import re

from boxflow.testing.model_server.replies import Reply, Say, Tokens
from boxflow.testing.model_server.request import ModelRequest, hands_back_an_answer

_TITLE = Say("A scripted title", tokens=Tokens(20, 5))

# A name for the conversation: "You are a title generator" (opencode), "a short kebab-case name" (Claude Code).
_WANTS_A_NAME = re.compile(r"\btitle\b|kebab-case name|new conversation topic", re.IGNORECASE)


def side_reply(request: ModelRequest) -> Reply | None:
    """What to answer to a request that is no turn of the script; None for one that is.

    Recognised by what Claude Code 2.1, Codex 0.169 and opencode 1.18 send. A request of your own code is never one.
    """
    if request.messages and hands_back_an_answer(request.messages[-1]):
        return Say("The structured output was given.", tokens=Tokens(20, 5))
    program = request.headers.get("user-agent", "")
    if program.startswith("claude-cli/") and not request.tools:
        if request.reading.max_tokens == 1:
            return Say("#", tokens=Tokens(1, 1))
        if _WANTS_A_NAME.search(request.system):
            return _named(request)
    if program.startswith("opencode/") and not request.tools and _WANTS_A_NAME.search(request.system):
        return _TITLE
    if _kind_of_codex_request(request) not in ("", "turn"):
        return Say("Nothing of note happened.", tokens=Tokens(20, 5))
    return None


def _named(request: ModelRequest) -> Say:
    if request.reading.schema is None:
        return _TITLE
    fields: list[str] = list(request.reading.schema.get("properties", {}))
    return Say(json.dumps(dict.fromkeys(fields, "scripted-title")), tokens=_TITLE.tokens)


def _kind_of_codex_request(request: ModelRequest) -> str:
    """`"turn"`, or `"compaction"` and such, as Codex says in a header; empty for other programs."""
    try:
        return str(json.loads(request.headers["x-codex-turn-metadata"])["request_kind"])
    except (KeyError, TypeError, ValueError):
        return ""
