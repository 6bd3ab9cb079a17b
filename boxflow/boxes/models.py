"""How does an agent in a box reach its model? Through the gateway of its engine, or straight, with the key itself."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
import string
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

import attrs
import msgspec

from boxflow.agent_config import AgentConfig
from boxflow.errors import ConfigurationError
from boxflow.plugins import resolve_harness
from boxflow.ports import BoxSpec, Capability, Egress, Network, Sandbox

if TYPE_CHECKING:
    # For agents only: every engine has its `Models`, and most have no agent.
    from boxflow.gateway import Account, ModelGateway
    from boxflow.harness import Harness, ModelApi, Usage

MODEL_HOST: Final = "model.boxflow.internal"
"""What the gateway is called in boxes that reach it through the gate of their network. `.internal` is nobody's (ICANN
board resolution 2024.07.29.06)."""

_ALLOWED: Final = f"{MODEL_HOST}:80"

# Where a program's model is when nothing else is said, without a slash at the end; by its `ModelApi`, if it has one.
_UPSTREAMS: Final[Mapping[str, str]] = {
    "anthropic": "https://api.anthropic.com",
    "openai": "https://api.openai.com/v1",
}


@attrs.frozen(kw_only=True)
class Way:
    """How one run reaches its model.

    :param base_url: None for the program's own default
    :param token: of the gateway; what the program shows there. None without the gateway
    """

    base_url: str | None
    api_key: str | None = attrs.field(repr=False)
    token: str | None = attrs.field(default=None, repr=False)


class Metered(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway has counted.

    :param refused: requests that it did not forward, since a limit was reached
    """

    usage: Usage
    cost_usd: float | None
    refused: int


class KeptAccount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An account as it is kept until its run is over: with it the gateway serves the run again after a restart."""

    run: str
    name: str
    api: str
    upstream: str
    key: str
    max_cost_usd: float | None = None
    max_output_tokens: int | None = None
    max_requests: int | None = None
    prices: tuple[float, float, float] | None = None


class Keep(Protocol):
    """Where accounts, and what was spent on them, are kept."""

    async def put(self, key: str, data: bytes) -> None: ...

    async def get(self, key: str) -> bytes | None: ...

    async def remove(self, key: str) -> None: ...

    async def keys(self, prefix: str) -> Sequence[str]: ...


class MemoryKeep:
    """Kept as long as this object: for `Boxes` without an engine."""

    def __init__(self) -> None:
        self._records: dict[str, bytes] = {}

    async def put(self, key: str, data: bytes) -> None:
        self._records[key] = data

    async def get(self, key: str) -> bytes | None:
        return self._records.get(key)

    async def remove(self, key: str) -> None:
        self._records.pop(key, None)

    async def keys(self, prefix: str) -> Sequence[str]:
        return [key for key in self._records if key.startswith(prefix)]


_ACCOUNT: Final = "account:"
_PORT: Final = "port"


class Models:
    """The way to their models for the agents of some boxes. The gateway is started when it is first needed.

    It is started at the port that it had, so that agents which outlived the engine find it again.

    :param secret: makes the tokens, the same for a run after a restart. Without one there is no gateway: nobody would
        stop it
    """

    def __init__(self, keep: Keep | None = None, secret: bytes = b"") -> None:
        self._keep: Keep = keep or MemoryKeep()
        self._secret = secret
        self._starting = asyncio.Lock()
        self._gateway: ModelGateway | None = None
        #: What stands in for every agent program by its name, in tests: it needs no model. None in life.
        self.stand_in: Callable[[str], Harness] | None = None
        self._stack = contextlib.AsyncExitStack()

    @property
    def has_gateway(self) -> bool:
        """Whether the gateway has been started, as it is before the first run that it counts."""
        return self._gateway is not None

    def use_secret(self, secret: bytes) -> None:
        """From here on there is a gateway: who says so stops it, by `aclose`."""
        self._secret = secret

    async def aclose(self) -> None:
        """Stop the gateway, if it was started. Agents that go on wait for the next one."""
        gateway, self._gateway = self._gateway, None
        if gateway is not None:
            await self._stack.aclose()

    async def recover(self) -> None:
        """Serve the runs of an earlier life that are not over."""
        for key in await self._keep.keys(_ACCOUNT):
            data = await self._keep.get(key)
            if data is not None:
                await self._open(msgspec.json.decode(data, type=KeptAccount))

    # --- boxes --------------------------------------------------------------------------------------------------------

    async def prepared(self, spec: BoxSpec, sandbox: Sandbox) -> BoxSpec:
        """*spec*, with the way to the gateway in its network where its agent needs one.

        :raises ConfigurationError: such a box cannot reach the gateway
        """
        if not needs_way(spec, sandbox) or self.stand_in is not None:
            return spec
        if spec.network == "open":
            raise ConfigurationError(
                "a box with network='open' cannot reach the model gateway; give it a list of hosts, or the agent "
                "gateway=False, and the key enters the box"
            )
        gateway = await self._started()
        return with_way(spec, sandbox, f"127.0.0.1:{gateway.port}")

    def harness(self, name: str) -> Harness:
        """The harness of that name, or what stands in for it.

        :raises ConfigurationError: no such harness, or what it needs is not installed
        """
        return resolve_harness(name) if self.stand_in is None else self.stand_in(name)

    # --- runs ---------------------------------------------------------------------------------------------------------

    async def way(
        self,
        config: AgentConfig,
        api: ModelApi,
        sandbox: Sandbox,
        network: Network | None,
        *,
        run: str,
        name: str,
        max_turns: int | None,
        max_cost_usd: float | None,
        max_output_tokens: int | None,
    ) -> Way:
        """How the run reaches its model; the same again after a restart.

        :raises ConfigurationError: its key or its limits cannot work
        """
        base_url = None if config.base_url is None else config.base_url.rstrip("/")
        if config.key is None:
            _refuse_limit(max_output_tokens, "a key")
            return Way(base_url=base_url, api_key=None)
        if self.stand_in is not None:
            # No gateway, and no key looked up; but a run that would be counted in life is one here.
            return Way(base_url=base_url, api_key=None, token="stand-in" if config.gateway else None)
        if not config.gateway:
            _refuse_limit(max_output_tokens, "the gateway")
            return Way(base_url=base_url, api_key=filled(config.key))
        if api not in _UPSTREAMS:
            raise ConfigurationError(
                f"agent {config.harness!r} speaks no model interface that the gateway knows; say gateway=False in its "
                "AgentConfig, and the key enters the box"
            )
        if _has_gates(sandbox) and not (isinstance(network, Egress) and _ALLOWED in network.allow):
            raise ConfigurationError(
                f"this box has no way to the model gateway; make it with agent=AgentConfig({config.harness!r}, "
                "key=...), or say gateway=False in the call's AgentConfig, and the key enters the box"
            )
        kept = KeptAccount(
            run=run,
            name=name,
            api=str(api),
            upstream=base_url or _UPSTREAMS[api],
            key=config.key,
            # Where the price is not known, the program's own count has to do.
            max_cost_usd=None if config.prices is None else max_cost_usd,
            max_output_tokens=max_output_tokens,
            max_requests=max_turns,
            prices=None
            if config.prices is None
            else (config.prices.input, config.prices.cached_input, config.prices.output),
        )
        await self._keep.put(_ACCOUNT + run, msgspec.json.encode(kept))
        gateway = await self._open(kept)
        token = self._token(run)
        reached = f"http://{MODEL_HOST}/t/{token}" if _has_gates(sandbox) else gateway.url(token)
        return Way(base_url=reached, api_key=token, token=token)

    async def refused(self, run: str) -> bool:
        """Whether the gateway has refused the run something, since a limit was reached."""
        if self._gateway is None or await self._keep.get(_ACCOUNT + run) is None:
            return False
        return (await self._gateway.spent(self._token(run))).refused > 0

    async def settle(self, run: str) -> Metered | None:
        """The run is over: its token is worth nothing from now on. What it has spent; None without the gateway."""
        if await self._keep.get(_ACCOUNT + run) is None:
            return None
        gateway = await self._started()
        spent = await gateway.spent(self._token(run))
        await gateway.close(self._token(run))
        await self._keep.remove(_ACCOUNT + run)
        return Metered(usage=spent.usage, cost_usd=spent.cost_usd, refused=spent.refused)

    async def _open(self, kept: KeptAccount) -> ModelGateway:
        gateway = await self._started()
        await gateway.open(self._account(kept))
        return gateway

    def _account(self, kept: KeptAccount) -> Account:
        from boxflow.gateway import Account, Prices  # It brings an HTTP client with it.
        from boxflow.harness import ModelApi

        prices = None
        if kept.prices is not None:
            plain, cached, output = kept.prices
            prices = Prices(input=plain, cached_input=cached, output=output)
        return Account(
            token=self._token(kept.run),
            name=kept.name,
            api=ModelApi(kept.api),
            upstream=kept.upstream,
            key=kept.key,
            max_cost_usd=kept.max_cost_usd,
            max_output_tokens=kept.max_output_tokens,
            max_requests=kept.max_requests,
            prices=prices,
        )

    def _token(self, run: str) -> str:
        return "bfm_" + hmac.new(self._secret, b"boxflow model token\0" + run.encode(), hashlib.sha256).hexdigest()

    async def _started(self) -> ModelGateway:
        if not self._secret:
            raise ConfigurationError(
                "this box stands alone, and has no model gateway; make it with `Boxes` or an engine, or say "
                "gateway=False in its AgentConfig, and the key enters the box"
            )
        async with self._starting:
            if self._gateway is None:
                self._gateway = await self._start()
            return self._gateway

    async def _start(self) -> ModelGateway:
        from boxflow.gateway import ModelGateway  # As above.

        known = await self._keep.get(_PORT)
        # A port that is taken is an error: agents in boxes know this one.
        gateway = ModelGateway(self._keep, port=0 if known is None else int(known))
        await self._stack.enter_async_context(gateway)
        await self._keep.put(_PORT, str(gateway.port).encode())
        return gateway


def needs_way(spec: BoxSpec, sandbox: Sandbox) -> bool:
    """Whether a box of *spec* reaches its model by the gateway, through the gate of its network."""
    config = spec.agent
    return config is not None and config.key is not None and config.gateway and _has_gates(sandbox)


def with_way(spec: BoxSpec, sandbox: Sandbox, address: str | None = None) -> BoxSpec:
    """*spec* as such a box is made.

    :param address: of the gateway; None where only the handle of a box is made, which asks nobody
    """
    if not needs_way(spec, sandbox):
        return spec
    asked = spec.network if isinstance(spec.network, Egress) else Egress(allow=())
    resolve = asked.resolve if address is None else {**asked.resolve, _ALLOWED: address}
    return attrs.evolve(spec, network=attrs.evolve(asked, allow=(*asked.allow, _ALLOWED), resolve=resolve))


def filled(text: str) -> str:
    """*text* with the variables of this process in place of `$NAME`.

    :raises ConfigurationError: one of them is not set
    """
    try:
        return string.Template(text).substitute(os.environ)
    except KeyError as exc:
        raise ConfigurationError(f"the variable {exc.args[0]} is not set, which the agent's key needs") from None
    except ValueError as exc:
        raise ConfigurationError(f"the agent's key holds a '$' that begins no name: {exc}; write '$$' for it") from None


def _has_gates(sandbox: Sandbox) -> bool:
    return Capability.NETWORK_POLICY in sandbox.capabilities


def _refuse_limit(max_output_tokens: int | None, what: str) -> None:
    if max_output_tokens is not None:
        raise ConfigurationError(
            f"max_output_tokens={max_output_tokens} is kept by the model gateway, and this agent works without {what}"
        )
