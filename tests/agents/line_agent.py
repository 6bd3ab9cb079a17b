"""A small agent program and its harness, for tests of what all agents share: it does what its prompt says.

say TEXT          a piece of text                      write PATH TEXT     writes a file
result JSON       its answer                           fail KIND TEXT      ends without one
until PATH        waits for a file                     daemon              leaves a process in a session of its own
raw TEXT          prints TEXT as it is                 exit N              ends at once
forever           never ends                           count PATH          appends a line to a file
again             what follows is for the second try: when it is told that its answer does not fit
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from boxflow.harness import (
    AgentEvent,
    AgentFailure,
    AgentRequest,
    Finished,
    Installation,
    Launch,
    Limit,
    ModelApi,
    Notice,
    SessionStarted,
    TextDelta,
    Usage,
)

PROGRAM = r"""
import json, os, subprocess, sys, time

def tell(**event):
    print(json.dumps(event), flush=True)

script = sys.stdin.read()
session = sys.argv[1]
memory = os.path.join(sys.argv[2], session)
if session != "new":
    script = open(memory).read().partition("\nagain\n")[2]
else:
    session = "s1"
    open(os.path.join(sys.argv[2], session), "w").write(script)
    script = script.partition("\nagain\n")[0]
tell(session=session)
for line in script.splitlines():
    word, _, rest = line.partition(" ")
    if word == "say":
        tell(text=rest)
    elif word == "write":
        path, _, text = rest.partition(" ")
        open(path, "w").write(text)
    elif word == "count":
        open(rest, "a").write("x\n")
    elif word == "result":
        tell(result=json.loads(rest))
    elif word == "fail":
        kind, _, text = rest.partition(" ")
        tell(fail=kind, message=text)
        sys.exit(1)
    elif word == "until":
        while not os.path.exists(rest):
            time.sleep(0.01)
    elif word == "raw":
        print(rest, flush=True)
    elif word == "daemon":
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        open("daemon", "w").write(str(child.pid))
    elif word == "forever":
        time.sleep(600)
    elif word == "exit":
        sys.exit(int(rest))
"""


class LineReader:
    """Reads the program's lines."""

    def __init__(self) -> None:
        self._session: str | None = None
        self._text = ""
        self._finished: Finished | None = None

    def feed(self, line: str) -> Sequence[AgentEvent]:
        try:
            event: dict[str, Any] = json.loads(line)
        except ValueError:
            return [Notice(message=f"not understood: {line[:100]}")]
        match event:
            case {"session": session}:
                self._session = session
                return [SessionStarted(session_id=session)]
            case {"text": text}:
                self._text = text
                return [TextDelta(text=text)]
            case {"result": result}:
                self._finished = Finished(
                    text=self._text, structured=result, session_id=self._session, cost_usd=0.25, turns=1,
                    usage=Usage(input_tokens=10, output_tokens=5, requests=1),
                )  # fmt: skip
                return [self._finished]
            case {"fail": kind, "message": message}:
                self._finished = Finished(text=self._text, failure=AgentFailure(kind), message=message)
                return [self._finished]
            case _:
                return []

    def end(self, exit_code: int, stderr: str) -> Finished:
        if self._finished is not None:
            return self._finished
        return Finished(text=self._text, failure=AgentFailure.CRASHED, message=f"exit {exit_code} {stderr}".strip())


class LineAgent:
    """The harness of the program above."""

    name = "line"
    installation = Installation(manager="npm", package="line-agent@1.0.0")
    api = ModelApi.NONE
    own_limits: frozenset[Limit] = frozenset({"max_turns"})

    def __init__(self, program: str = "python3") -> None:
        self.program = program

    def launch(self, request: AgentRequest) -> Launch:
        return Launch(
            argv=[self.program, "{dir}/agent.py", request.session or "new", "{home}"],
            stdin=request.prompt.encode(),
            files={"agent.py": PROGRAM},
        )

    def reader(self, request: AgentRequest) -> LineReader:
        return LineReader()
