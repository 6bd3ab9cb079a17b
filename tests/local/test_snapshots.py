"""A snapshot of a local box is a file, and brings everything back."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from boxflow.errors import BoxNotFoundError, SandboxError, SnapshotNotFoundError
from boxflow.ports import BoxSpec
from boxflow_backends.local_sandbox import LocalSandbox

from .support import local_box


def _shown(top: Path) -> dict[str, tuple[int, bytes | str]]:
    found: dict[str, tuple[int, bytes | str]] = {}
    for directory, names, files in os.walk(top):
        for name in [*names, *files]:
            path = Path(directory, name)
            mode = stat.S_IMODE(path.lstat().st_mode)
            content: bytes | str = "directory"
            if path.is_symlink():
                mode, content = 0, f"-> {path.readlink()}"
            elif path.is_file():
                content = path.read_bytes()
            found[str(path.relative_to(top))] = (mode, content)
    return found


async def test_a_thousand_files_come_back_with_modes_and_links(tmp_path: Path) -> None:
    async with local_box(tmp_path) as box:
        work, home = tmp_path / box.id / "work", tmp_path / box.id / "home"
        for n in range(1000):
            path = work / f"d{n % 10}" / f"ü {n}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"%d" % n * n)
            path.chmod((0o600, 0o644, 0o755, 0o400, 0o777)[n % 5])
        (work / "link").symlink_to("d1")
        (work / "away").symlink_to("/etc/passwd")
        (work / "closed").mkdir()
        (work / "closed" / "f").write_text("in a directory that nobody may change")
        (work / "closed").chmod(0o555)
        (home / ".profile").write_text("x")
        (tmp_path / box.id / "tmp" / "gone").write_text("temporary")
        (tmp_path / box.id / "jobs" / "gone").write_text("a job")
        await box.sandbox.snapshot(box.id, "whole", {"of": "it"})
        assert [path.name for path in (tmp_path / ".snapshots").iterdir()] == ["whole"]
        async with local_box(tmp_path, BoxSpec(snapshot="whole")) as again:
            top = tmp_path / again.id
            assert _shown(top / "work") == _shown(work)
            assert _shown(top / "home") == _shown(home)
            assert _shown(top / "tmp") == {} == _shown(top / "jobs")
            (top / "work" / "closed").chmod(0o755)
        (work / "closed").chmod(0o755)
        await box.sandbox.delete_snapshot("whole")
        assert list((tmp_path / ".snapshots").iterdir()) == []


async def test_a_snapshot_that_is_not_there_makes_no_box(tmp_path: Path) -> None:
    async with LocalSandbox(tmp_path) as sandbox:
        with pytest.raises(SnapshotNotFoundError, match="never"):
            await sandbox.create("box", BoxSpec(snapshot="never"), {})
        with pytest.raises(BoxNotFoundError):
            await sandbox.get("box")
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".new")] == []


async def test_a_snapshot_that_is_damaged_makes_no_box(tmp_path: Path) -> None:
    async with local_box(tmp_path) as box:
        await box.sandbox.write_file(box.id, "f", bytes(10_000))
        await box.sandbox.snapshot(box.id, "short", {})
        file = tmp_path / ".snapshots" / "short" / "files.tar"
        os.truncate(file, 5000)
        with pytest.raises(SandboxError):
            await box.sandbox.create("other", BoxSpec(snapshot="short"), {})
        with pytest.raises(BoxNotFoundError):
            await box.sandbox.get("other")


async def test_a_snapshot_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    async with local_box(tmp_path) as box:
        await box.run("head -c 200000000 /dev/zero > large")
        making = asyncio.create_task(box.sandbox.snapshot(box.id, "half", {}))
        await asyncio.sleep(0.02)
        making.cancel()
        await asyncio.wait({making})
        if making.cancelled():
            assert await box.sandbox.list_snapshots({}) in ([], ())
            assert list((tmp_path / ".snapshots").iterdir()) == []
