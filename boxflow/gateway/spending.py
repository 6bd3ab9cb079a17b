"""How much was spent, and what does it cost?"""

from __future__ import annotations

import attrs

from boxflow.harness import Usage

# Anthropic asks 1.25 times the price of input for what is written to its cache for five minutes
# (docs.anthropic.com/en/docs/build-with-claude/prompt-caching).
_CACHE_WRITE_FACTOR = 1.25


@attrs.frozen(kw_only=True)
class Tokens:
    """The tokens of one request.

    :param input: neither read from a cache nor written to one
    :param cached_input: read from a cache
    :param written_input: written to a cache
    :param output: reasoning included
    :param estimated: some of these were not told by the model's host, but estimated from lengths of texts
    """

    input: int = 0
    cached_input: int = 0
    written_input: int = 0
    output: int = 0
    estimated: bool = False


@attrs.frozen(kw_only=True)
class Prices:
    """What a model costs, in USD per million tokens.

    :param cache_write: of input that is written to a cache; 1.25 times *input* when None
    """

    input: float
    cached_input: float
    output: float
    cache_write: float | None = None

    def cost_usd(self, tokens: Tokens) -> float:
        """What *tokens* cost."""
        cache_write = self.input * _CACHE_WRITE_FACTOR if self.cache_write is None else self.cache_write
        millionths = (
            tokens.input * self.input
            + tokens.cached_input * self.cached_input
            + tokens.written_input * cache_write
            + tokens.output * self.output
        )
        return millionths / 1e6


@attrs.frozen(kw_only=True)
class Spent:
    """What an account has spent.

    :param usage: of requests that a model answered, and of those that the agent did not wait for; input that was
        written to a cache counts as input
    :param cost_usd: None when the account has no prices
    :param refused: requests that were over a limit of the account
    :param estimated: requests whose tokens were at least in part estimated, since they were cut or the model's host
        told no usage
    """

    usage: Usage = attrs.field(factory=Usage)
    cost_usd: float | None = None
    refused: int = 0
    estimated: int = 0

    def plus(self, tokens: Tokens, prices: Prices | None) -> Spent:
        """This, and one more request."""
        usage = Usage(
            input_tokens=tokens.input + tokens.written_input,
            cached_input_tokens=tokens.cached_input,
            output_tokens=tokens.output,
            requests=1,
        )
        return attrs.evolve(
            self,
            usage=self.usage + usage,
            cost_usd=self.cost_usd if prices is None else (self.cost_usd or 0.0) + prices.cost_usd(tokens),
            estimated=self.estimated + tokens.estimated,
        )
