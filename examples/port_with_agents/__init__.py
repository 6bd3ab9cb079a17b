"""Real coding agents: one reads a change and explains it, three port it at once, a person approves or sends them back.

    python -m examples.port_with_agents --offline              no key, no network: a scripted model answers
    ANTHROPIC_API_KEY=... python -m examples.port_with_agents  the real thing, with Claude Code
    OPENAI_API_KEY=... python -m examples.port_with_agents --agent codex

workflow.py    the pipeline: start reading here
offline.py     what the scripted model answers, and the repository whose change is ported
__main__.py    the command line: starts the engine, asks the person

The agent's program must be there: `boxflow agents install claude-code`.
"""
