"""Which agent has a box, and how does it reach its model? What its user says of it, before there is any adapter.

Apart from `boxflow.harness`, which only a program loads that lets agents work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class ModelPrices:
    """What a model costs, in USD for a million tokens of each kind."""

    input: float
    output: float
    cached_input: float = 0.0


@attrs.frozen
class AgentConfig:
    """Which agent a box has, and how it reaches its model.

    :param harness: `"claude-code"`, `"codex"`, `"opencode"`, `"command"`, `"sse"`, or one that a package adds
    :param model: the program's default when None
    :param key: what the model's host wants to see. A `$NAME` or `${NAME}` in it is the engine's variable of that name,
        looked up when it is needed: write no secret itself
    :param base_url: where the model is; the host that the program knows by itself when None
    :param gateway: keep the key out of the box: the program gets a token of its run, and reaches its model through the
        engine, which puts the key in place of the token, counts what is spent, and stops at the limits. Without it the
        key is a variable of the program, and every process of the box can read it
    :param prices: of the model, in USD for a million tokens; then the gateway knows what a run costs
    :param options: of the harness
    """

    harness: str = "claude-code"
    model: str | None = attrs.field(default=None, kw_only=True)
    key: str | None = attrs.field(default=None, kw_only=True)
    base_url: str | None = attrs.field(default=None, kw_only=True)
    gateway: bool = attrs.field(default=True, kw_only=True)
    prices: ModelPrices | None = attrs.field(default=None, kw_only=True)
    options: Mapping[str, Any] = attrs.field(factory=dict[str, Any], kw_only=True)
