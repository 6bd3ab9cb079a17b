"""A person's answer, sent over HTTP as any other program would send it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import asdict
from typing import Any

from examples.port_change.service import Place
from examples.port_change.workflow import Verdict


def answer(url: str, verdict: Verdict) -> dict[str, Any]:
    """POST the verdict as an event; says which runs it woke."""
    body = json.dumps(asdict(verdict)).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
    with urllib.request.urlopen(request, timeout=10) as reply:
        found: dict[str, Any] = json.load(reply)
        return found


def answer_question(place: Place, verdict: Verdict) -> str:
    """Answer what the demo in *place* asks; returns what to tell the person."""
    try:
        url = json.loads(place.question.read_text(encoding="utf-8"))["url"]
    except FileNotFoundError:
        raise SystemExit(f"nothing waits for an answer in {place.directory}") from None
    try:
        answer(url, verdict)
    except urllib.error.URLError as error:
        raise SystemExit(
            f"the demo does not answer ({error.reason}); start it again with the same --directory"
        ) from None
    return "approved" if verdict.approved else f"sent back: {verdict.feedback}"
