"""What does the engine do in those attacks that it takes part in, and how does it see what came of them?"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from security.outcome import Outcome, Run
from security.scene import GATE_SECRET, Scene

from boxflow import Box, Boxes, Egress
from boxflow.errors import CommandTimeoutError, SandboxError

# --- files


async def written_outside(scene: Scene, boxes: Boxes, box: Box, run: Run) -> Outcome:
    """Look whether a file is there; in the box there may be a directory of the same name."""
    told = await run("write_outside")
    return _seen(scene.disturbed(), told.words)


async def read_planted(scene: Scene, boxes: Boxes, box: Box, run: Run) -> Outcome:
    """Read and download through links."""
    await run("plant_for_reading")
    target = scene.downloads / "read"
    secret = scene.facts()["marker_secret"]
    refusals = []

    async def downloaded(path: str) -> str:
        await box.files.download(path, target)
        return target.read_text()

    for path in ("notes.txt", f"folder/{scene.marker.name}", "climbing.txt"):
        for way in (box.files.read, downloaded):
            try:
                got = await way(path)
            except (SandboxError, OSError) as exc:
                refusals.append(type(exc).__name__)
                continue
            if secret in got:
                return Outcome(succeeded=True, words=f"the engine read {path}")
    return Outcome(succeeded=False, words=", ".join(dict.fromkeys(refusals)))


async def write_planted(scene: Scene, boxes: Boxes, box: Box, run: Run) -> Outcome:
    """Write, upload, move and remove through links."""
    await run("plant_for_writing")
    source = scene.directory / "upload"
    source.mkdir()
    (source / "new.txt").write_text("from the engine")
    words = await _all_refused_or_harmless(
        box.files.write("report.txt", "from the engine"),
        box.files.write("results/new.txt", "from the engine"),
        box.files.write("climbing/new.txt", "from the engine"),
        box.files.upload(source / "new.txt", "report.txt"),
        box.files.upload(source / "new.txt", "results/new.txt"),
        box.files.upload(source, "results"),
        box.files.upload(source, "climbing"),
        box.files.mkdir("results/made"),
        box.files.rename("results/keep.txt", "mine.txt"),
        box.files.remove("results/keep.txt"),
    )
    return _seen(scene.disturbed(), words)


async def write_swapped(scene: Scene, boxes: Boxes, box: Box, run: Run) -> Outcome:
    """Write and list again and again, while a directory and a link take each other's place."""
    swapping = asyncio.create_task(run("swap"))
    written = refused = 0
    try:
        while not swapping.done() and not await _exists(box, "other"):
            await asyncio.sleep(0.05)
        while not swapping.done():
            for doing in (box.files.write("place/new.txt", "from the engine"), box.files.list("place")):
                try:
                    await doing
                    written += 1
                except SandboxError:
                    refused += 1
    finally:
        told = await swapping
    return _seen(scene.disturbed(), f"{told.words}; {written} calls of the engine went through, {refused} failed")


async def download_planted(scene: Scene, boxes: Boxes, box: Box, run: Run) -> Outcome:
    """Download a folder, and look at what came, and at what is beside it."""
    await run("plant_lying_tar" if "PATH" in box.spec.env else "plant_for_download")
    target = scene.downloads / box.id / "target"
    target.parent.mkdir()
    words = await _all_refused_or_harmless(box.files.download("tree", target))
    found = [*_leading_out(target, scene), *([] if (said := scene.disturbed()) is None else [said])]
    if beside := [name for name in os.listdir(target.parent) if name != target.name]:
        found.append(f"beside the target there is {beside}")
    if "PATH" in box.spec.env:
        words += "; it was asked" if await _exists(box, "lies/log") else "; nobody asked it"
    return _seen("; ".join(found) or None, words)


def _leading_out(target: Path, scene: Scene) -> list[str]:
    found = []
    for directory, names, files in os.walk(target):
        for name in (*names, *files):
            path = Path(directory, name)
            status = path.lstat()
            if path.is_symlink():
                if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(target)):
                    found.append(f"{name!r} leads out")
            elif not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
                found.append(f"{name!r} is no file")
            elif status.st_mode & 0o7022:
                found.append(f"{name!r} has mode {stat.S_IMODE(status.st_mode):o}")
            elif stat.S_ISREG(status.st_mode) and scene.facts()["marker_secret"] in path.read_text():
                found.append(f"{name!r} is the marker")
    return found


# --- processes


async def victim_signalled(scene: Scene, boxes: Boxes, box: Box, run: Run) -> Outcome:
    """Look whether it is still there."""
    told = await run("signal_host_process")
    return Outcome(succeeded=scene.victim_ended(), words=told.words)


async def beside_an_exec(scene: Scene, boxes: Boxes, box: Box, run: Run) -> Outcome:
    """Give a secret to an exec, and have it looked for while that runs."""
    async with box.exec.session(["sleep", "60"], env={"EXEC_SECRET": scene.exec_secret}):
        return await run("exec_environment")


async def box_goes_on(scene: Scene, boxes: Boxes, box: Box, run: Run) -> Outcome:
    """Look whether the box is still there."""
    try:
        told = await run("kill_first")
        alive = (await box.exec.command("echo alive", timeout=20)).stdout == "alive\n"
    except (SandboxError, RuntimeError) as exc:
        return Outcome(succeeded=True, words=f"then: {exc}")
    return Outcome(succeeded=told.succeeded or not alive, words=told.words)


async def daemon_after_timeout(scene: Scene, boxes: Boxes, box: Box, run: Run) -> Outcome:
    """Let an exec run into its timeout, and look for what it left."""
    try:
        await run("leave_daemon", timeout=3, daemon_waits_s=30)
    except CommandTimeoutError as exc:
        if "daemon started" not in exc.stdout:
            raise RuntimeError(f"the daemon had no time to start: {exc.stderr}") from exc
    inside = await run("see_daemon")
    outside = scene.end_daemon()
    return Outcome(succeeded=inside.succeeded or outside, words=inside.words)


async def daemon_after_delete(scene: Scene, boxes: Boxes, box: Box, run: Run) -> Outcome:
    """Delete the box, and look for what it left. A Docker engine on another machine cannot be looked into."""
    await run("leave_daemon", daemon_waits_s=0)
    there = await run("see_daemon")
    if not there.succeeded:
        raise RuntimeError("the daemon does not run, so it cannot outlive anything")
    await boxes.delete(box.id)
    found = scene.end_daemon()
    return Outcome(succeeded=found, words="it runs on" if found else "it is gone")


# --- the network


async def udp_arrived(scene: Scene, boxes: Boxes, box: Box, run: Run) -> Outcome:
    """Look whether anything came: sending tells nothing."""
    told = await run("udp")
    return Outcome(succeeded=await scene.heard("udp-token"), words=told.words)


async def dns_arrived(scene: Scene, boxes: Boxes, box: Box, run: Run) -> Outcome:
    """Look whether anything came, or was answered."""
    told = await run("dns")
    return Outcome(succeeded=told.succeeded or await scene.heard("dns-token"), words=told.words)


async def name_asked(scene: Scene, boxes: Boxes, box: Box, run: Run) -> Outcome:
    """Look also whether the gate, which is in this process, has looked the name up."""
    told = await run("dns_tunnel")
    heard = await scene.heard("tunnel-token")
    return Outcome(succeeded=told.succeeded or heard, words="it was heard outside" if heard else told.words)


async def gate_secret_kept(scene: Scene, boxes: Boxes, box: Box, run: Run) -> Outcome:
    """Have the secret travel, then have it looked for."""
    scene.requests.clear()
    await run("allowed_host")
    if isinstance(box.spec.network, Egress):
        sent = f"Bearer {os.environ[GATE_SECRET]}"
        if not any(sent in request for request in scene.requests):
            raise RuntimeError(f"the secret did not reach its host: {scene.requests}")
    return await run("gate_secret")


# --- shared


def _seen(what: str | None, words: str) -> Outcome:
    return Outcome(succeeded=what is not None, words=what or words)


async def _all_refused_or_harmless(*calls: Coroutine[Any, Any, Any]) -> str:
    began, refused = time.monotonic(), 0
    for call in calls:
        try:
            await call
        except (SandboxError, OSError):
            refused += 1
    if time.monotonic() - began > 30:
        raise RuntimeError("the engine was held up")
    return f"{refused} of {len(calls)} calls refused"


async def _exists(box: Box, path: str) -> bool:
    try:
        await box.files.stat(path)
    except SandboxError:
        return False
    return True
