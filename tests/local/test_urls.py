"""What the URL of a local sandbox says is what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxflow.boxes import Boxes
from boxflow.errors import ConfigurationError, NotSupportedError
from boxflow.ports import BoxSpec, Capability, Egress, ProcessSpec
from boxflow_backends.local_sandbox import LocalSandbox


def test_a_url_may_ask_for_isolation(tmp_path: Path) -> None:
    plain = Boxes(f"local:{tmp_path}").sandbox
    assert repr(plain) == f"LocalSandbox({str(tmp_path)!r})"
    assert Capability.ISOLATION not in plain.capabilities
    isolated = Boxes(f"local:{tmp_path}?isolation=bubblewrap").sandbox
    assert repr(isolated) == f"LocalSandbox({str(tmp_path)!r}, isolation='bubblewrap')"
    assert {Capability.ISOLATION, Capability.NETWORK_POLICY} <= isolated.capabilities
    assert repr(Boxes("local:?isolation=none").sandbox) == repr(Boxes("local:").sandbox)


@pytest.mark.parametrize("url", ["local:?isolation=some", "local:/tmp?isolated=bubblewrap", "local:?isolation="])
def test_a_url_that_asks_for_what_is_not_there_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="isolation"):
        Boxes(url)


async def test_a_network_that_would_not_hold_is_refused_and_an_open_one_is_fine(tmp_path: Path) -> None:
    async with LocalSandbox(tmp_path) as sandbox:
        for network in ("none", Egress(allow=["example.org"])):
            with pytest.raises(NotSupportedError, match="isolation='bubblewrap'"):
                await sandbox.create("box", BoxSpec(network=network), {})
        await sandbox.create("box", BoxSpec(network="open"), {})
        await sandbox.delete("box")


async def test_only_who_runs_the_engine_can_be_the_user(tmp_path: Path) -> None:
    async with LocalSandbox(tmp_path) as sandbox:
        with pytest.raises(NotSupportedError, match="somebody-else"):
            await sandbox.create("box", BoxSpec(user="somebody-else"), {})
        await sandbox.create("box", BoxSpec(), {})
        process = await sandbox.spawn("box", ProcessSpec(argv=("sh", "-c", "id -un")))
        name = b"".join([data async for _, data in process.read()]).decode().strip()
        process = await sandbox.spawn("box", ProcessSpec(argv=("true",), user=name))
        assert await process.wait() == 0
        await sandbox.delete("box")
