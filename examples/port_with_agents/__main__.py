"""The command line: starts the engine, shows what the agents made, asks a person."""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from boxflow import AgentConfig, Engine, Run
from boxflow.agent_programs import find
from boxflow.testing.model_server import ScriptedModel
from examples.port_with_agents.offline import make_repository, script
from examples.port_with_agents.workflow import Change, Verdict, explain, port_everywhere, port_to

KEYS = {"claude-code": "ANTHROPIC_API_KEY", "codex": "OPENAI_API_KEY", "opencode": "OPENAI_API_KEY"}


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.port_with_agents")
    parser.add_argument("--offline", action="store_true", help="a scripted model in the place of a real one")
    parser.add_argument("--agent", choices=KEYS, default="claude-code")
    parser.add_argument("--model", help="which model; the program's default unless given")
    parser.add_argument("--sandbox", help="local:DIRECTORY, or docker:IMAGE with the agent's program in it")
    parser.add_argument("--feedback", help="what the person says to the first try; nothing is asked then")
    asked = parser.parse_args()
    program = find(asked.agent)
    if program is None and not (asked.sandbox or "").startswith("docker:"):
        raise SystemExit(f"{asked.agent} is not here; boxflow agents install {asked.agent}")
    if program is not None:
        os.environ["PATH"] = f"{program.parent}{os.pathsep}{os.environ['PATH']}"  # Local boxes have our PATH.
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="boxflow-agents-")))
        agent = AgentConfig(harness=asked.agent, model=asked.model, key=f"${KEYS[asked.agent]}")
        if asked.offline:
            os.environ[KEYS[asked.agent]] = "sk-nothing"
            model = await stack.enter_async_context(ScriptedModel(script()))
            suffix = "" if asked.agent == "claude-code" else "/v1"
            agent = AgentConfig(
                harness=asked.agent, model=asked.model or ("scripted" if asked.agent == "opencode" else None),
                key=agent.key, base_url=f"{model.url}{suffix}",
            )  # fmt: skip
        engine = Engine(
            [port_everywhere, port_to, explain],
            store=f"file:{directory}/store",
            sandbox=asked.sandbox or f"local:{directory}/boxes",
        )
        await stack.enter_async_context(engine)
        change = Change(await make_repository(directory), agent)
        run = await engine.start(port_everywhere, change, run_id="port")
        await review(engine, run, asked.feedback)
        for language, diff in (await run.result()).items():
            print(f"--- {language}\n{diff}")
        used = await run.usage()
        print(f"{used.agent_runs} agent runs, {used.usage.output_tokens} tokens written")
        print("boxes left:", len(await engine.boxes.list()))


async def review(engine: Engine, run: Run[dict[str, str]], feedback: str | None) -> None:
    """Ask the person, or answer as the command line says: once with feedback, then with approval."""
    if feedback is not None:
        verdicts = [Verdict(False, feedback), Verdict(True)]
    else:
        text = await asyncio.to_thread(input, "Approve what they will make? [Y, or what to change] ")
        verdicts = [Verdict(True)] if text.lower() in ("", "y", "yes") else [Verdict(False, text), Verdict(True)]
    for verdict in verdicts:
        await engine.notify(f"review-{run.id}", verdict)


if __name__ == "__main__":
    asyncio.run(main())
