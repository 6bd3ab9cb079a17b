"""What may be said of a box that is to be made: each option reaches the sandbox, and nonsense is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxflow import Boxes, Context, Egress, Engine, Snapshot, workflow
from boxflow.boxes import box_spec
from boxflow.boxes.options import size_bytes
from boxflow.errors import ConfigurationError
from boxflow.ports import BoxSpec, SnapshotInfo
from boxflow_backends.local_sandbox import LocalSandbox


def test_nothing_said_is_nothing_asked() -> None:
    assert box_spec({}) == BoxSpec()


def test_every_option_reaches_the_sandbox() -> None:
    sandbox = LocalSandbox("nowhere")
    snapshot = Snapshot(sandbox, SnapshotInfo(snapshot_id="s", box_id="b", labels={}, created_at=0.0))
    spec = box_spec({
        "snapshot": snapshot, "env": {"A": "1"}, "init": "true", "labels": {"l": "1"}, "ttl": "2h", "keep": True,
        "network": ["example.org"], "user": "root", "cpus": 1.5, "memory": "512MiB", "disk": 10_000,
        "max_processes": 64,
    })  # fmt: skip
    assert spec == BoxSpec(
        snapshot="s", env={"A": "1"}, init="true", labels={"l": "1"}, ttl_s=7200.0, keep=True,
        network=Egress(allow=("example.org",)), user="root", cpus=1.5, memory_bytes=512 * 1024**2, disk_bytes=10_000,
        max_processes=64,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "size"),
    [("512MB", 512_000_000), ("2GiB", 2 * 1024**3), ("1.5k", 1500), ("7", 7), (" 10 KiB ", 10240), (12, 12)],
)
def test_sizes_are_read_as_people_write_them(text: str | int, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memmory": 1}, "no option 'memmory'; known are image, dockerfile"),
        ({"image": "a", "dockerfile": "FROM b"}, "made from one thing; got image and dockerfile"),
        ({"network": "closed"}, "network='closed' is not understood"),
        ({"memory": "much"}, "size 'much' is not understood"),
        ({"memory": 0}, "memory=0 must be more than 0"),
        ({"disk": -5}, "disk=-5 must be more than 0"),
        ({"cpus": 0.0}, r"cpus=0\.0 must be more than 0"),
        ({"max_processes": 0}, "max_processes=0 must be at least 1"),
    ],
)
def test_nonsense_is_refused_by_name(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        box_spec(options)  # type: ignore[arg-type] # wrong on purpose


async def test_a_box_that_is_found_again_tells_how_it_was_made(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes:
        made = await boxes.create("a", env={"SECRET": "x"}, init="true", ttl="2h", keep=True, network="open")
        found = await boxes.get(made.id)
        spec = found.spec
        assert (found.name, spec.init, spec.ttl_s, spec.keep, spec.network) == ("a", "true", 7200.0, True, "open")
        # Labels are shown to everybody.
        assert spec.env == {}


async def test_a_body_gets_the_error_where_it_makes_the_box(tmp_path: Path) -> None:
    @workflow
    async def wrong(ctx: Context, _: None) -> str:
        try:
            ctx.box("a", network="closed")  # type: ignore[arg-type] # wrong on purpose
        except ConfigurationError as error:
            return str(error)
        return "made"

    async with Engine([wrong], sandbox=LocalSandbox(tmp_path)) as engine:
        assert "network='closed'" in await engine.run(wrong)
