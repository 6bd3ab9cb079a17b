"""Do the traps work? A box whose engine does not look where it reads and writes falls into every one of them."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from security.attacks import Attack
from security.outcome import Outcome
from security.scene import Scene

from boxflow.errors import SandboxError
from boxflow.ports import BoxSpec


class CarelessFiles:
    """`box.files` as one would write it first: paths are joined, and whatever is there is followed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def read(self, path: str) -> str:
        return (self._directory / path).read_text()

    async def write(self, path: str, data: str) -> None:
        await asyncio.sleep(0)
        try:
            (self._directory / path).write_text(data)
        except OSError as exc:
            raise SandboxError(str(exc)) from exc

    async def list(self, path: str) -> list[str]:
        return [one.name for one in (self._directory / path).iterdir()]

    async def stat(self, path: str) -> object:
        try:
            return (self._directory / path).lstat()
        except OSError as exc:
            raise SandboxError(str(exc)) from exc

    async def mkdir(self, path: str) -> None:
        (self._directory / path).mkdir()

    async def rename(self, path: str, to: str) -> None:
        (self._directory / path).rename(self._directory / to)

    async def remove(self, path: str) -> None:
        (self._directory / path).unlink()

    async def upload(self, source: Path, path: str) -> None:
        if source.is_dir():
            shutil.copytree(source, self._directory / path, dirs_exist_ok=True)
        else:
            shutil.copy(source, self._directory / path)

    async def download(self, path: str, target: Path) -> None:
        source, lying = self._directory / path, self._directory / "lies" / "tar"
        if lying.exists():
            archive = subprocess.run([str(lying)], cwd=self._directory, capture_output=True, check=True).stdout
            (target.parent / "archive").write_bytes(archive)
            with tarfile.open(target.parent / "archive") as tar:
                tar.extractall(target, filter="fully_trusted")
        elif source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("pipe"))
        else:
            shutil.copy(source, target)


@attrs.frozen(kw_only=True)
class CarelessBox:
    """As much of a `Box` as traps need."""

    id: str
    spec: BoxSpec
    files: CarelessFiles


async def spring(scene: Scene, attack: Attack, directory: Path) -> Outcome:
    """What comes of an attack against that box."""
    assert attack.engine is not None

    async def run(function: str, *, timeout: float = 30, **facts: Any) -> Outcome:
        told: Mapping[str, Any] = {
            name: value[::-1] if name.endswith("_secret") else value for name, value in scene.facts().items()
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", attack.text(), json.dumps([(function, {**told, **facts})])),
            cwd=directory,
            stdout=subprocess.PIPE,
        )
        output, _ = await asyncio.wait_for(process.communicate(), timeout)
        return Outcome.read(output.decode().splitlines()[-1])

    spec = BoxSpec(env=attack.options.get("env", {}))
    box: Any = CarelessBox(id=directory.name, spec=spec, files=CarelessFiles(directory))
    boxes: Any = None
    return await attack.engine(scene, boxes, box, run)
