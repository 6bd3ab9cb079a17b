r"""A model without a model: real agent programs, and SDKs, run offline against a script that you write.

    from boxflow.testing.model_server import RunCommand, Say, ScriptedModel, WriteFile

    async with ScriptedModel([WriteFile("a.txt", "hello\n"), RunCommand("cat a.txt"), Say("Done.")]) as model:
        ...  # run Claude Code, Codex, opencode, or your own code, with model.url as its base URL
    assert model.requests[2].last_tool_output.endswith("hello\n")

A script is a list of the model's turns in each conversation; or `prompts({...})`, such lists by what the user says; or
a function from `ModelRequest` to a reply. `python -m boxflow.testing.model_server SCRIPT.json` serves one by hand.
"""

from boxflow.testing.model_server.errors import ScriptError
from boxflow.testing.model_server.replies import (
    Answer,
    Block,
    CutStream,
    EditFile,
    Fail,
    First,
    Garbage,
    Hang,
    ReadFile,
    Reply,
    RunCommand,
    Say,
    Think,
    Together,
    Tokens,
    Use,
    WriteFile,
)
from boxflow.testing.model_server.request import Api, HttpRequest, Message, ModelRequest, Tool, ToolOutput, ToolUse
from boxflow.testing.model_server.scripts import Decision, Script, prompts, script_from_json
from boxflow.testing.model_server.server import ScriptedModel
from boxflow.testing.model_server.side_requests import side_reply

__all__ = [
    "Answer",
    "Api",
    "Block",
    "CutStream",
    "Decision",
    "EditFile",
    "Fail",
    "First",
    "Garbage",
    "Hang",
    "HttpRequest",
    "Message",
    "ModelRequest",
    "ReadFile",
    "Reply",
    "RunCommand",
    "Say",
    "Script",
    "ScriptError",
    "ScriptedModel",
    "Think",
    "Together",
    "Tokens",
    "Tool",
    "ToolOutput",
    "ToolUse",
    "Use",
    "WriteFile",
    "prompts",
    "script_from_json",
    "side_reply",
]
