"""A job is a process of a box with an id: started once, found again by anybody, its output and exit status kept."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from behaviour.support import is_alive

from boxflow import Box, Boxes, JobStatus
from boxflow.errors import CommandFailedError, JobLostError, JobNotFoundError, NotDurableError, SandboxError
from boxflow_backends.local_sandbox import LocalSandbox


@asynccontextmanager
async def a_box(directory: Path, **options: object) -> AsyncIterator[Box]:
    async with Boxes(LocalSandbox(directory)) as boxes, boxes.create("jobs", **options) as box:  # type: ignore[arg-type] # given by name
        yield box


async def written(box: Box, job_id: str, **where: int) -> dict[str, bytes]:
    """Everything that the job wrote, stream by stream, until its end."""
    found = {"stdout": b"", "stderr": b""}
    async for piece in box.jobs.logs(job_id, follow=True, **where):
        found[piece.stream] += piece.data
    return found


async def test_a_job_is_started_and_its_result_waited_for(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        job = await box.jobs.start("echo out; echo err >&2; exit 3", job_id="build")
        result = await job.wait(timeout=30)
        assert (result.exit_code, result.stdout, result.stderr, result.truncated) == (3, "out\n", "err\n", False)
        info = await box.jobs.get("build")
        assert (info.status, info.exit_code, info.command) == (
            JobStatus.EXITED,
            3,
            "echo out; echo err >&2; exit 3",
        )
        assert info.started_at is not None and info.duration_s is not None
        with pytest.raises(CommandFailedError, match="exited with 3"):
            await job.wait(check=True)


async def test_starting_one_id_twice_starts_it_once(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        jobs = await asyncio.gather(*(box.jobs.start("echo x >> ran; sleep 0.2", job_id="j") for _ in range(8)))
        await asyncio.gather(*(job.wait() for job in jobs))
        await box.jobs.start("echo other >> ran", job_id="j")
        assert await box.files.read("ran") == "x\n"
        assert len(await box.jobs.list()) == 1


async def test_another_engine_finds_a_job_and_reads_it_from_any_offset(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        await box.jobs.start("printf 0123456789; until [ -e go ]; do sleep 0.01; done; printf abc", job_id="j")
        async with Boxes(LocalSandbox(tmp_path)) as others:
            same = await others.get(box.id)
            assert [info.job_id for info in await same.jobs.list()] == ["j"]
            followed = asyncio.create_task(written(same, "j", offset=4))
            while (await same.jobs.get("j")).status is not JobStatus.RUNNING:
                await asyncio.sleep(0.01)
            await box.files.write("go", "")
            assert await followed == {"stdout": b"456789abc", "stderr": b""}
            assert await written(same, "j", offset=11) == {"stdout": b"bc", "stderr": b""}


async def test_output_arrives_while_the_job_runs(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        await box.jobs.start("echo first; until [ -e go ]; do sleep 0.01; done; echo last", job_id="j")
        seen: list[bytes] = []
        async for piece in box.jobs.logs("j", follow=True):
            seen.append(piece.data)
            if b"first\n" in seen:
                await box.files.write("go", "")
        assert b"".join(seen) == b"first\nlast\n"


async def test_leaving_the_logs_leaves_the_job_alone(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        await box.jobs.start("echo on; until [ -e go ]; do sleep 0.01; done; echo done > went", job_id="j")
        async for _ in box.jobs.logs("j", follow=True):
            break
        await box.files.write("go", "")
        assert (await box.jobs.wait("j", timeout=30)).exit_code == 0
        assert await box.files.read("went") == "done\n"


async def test_logs_without_follow_end_with_what_is_there(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        await box.jobs.start("echo some; sleep 600", job_id="j")
        text = ""
        while not text:
            text = "".join([piece.text async for piece in box.jobs.logs("j")])
        assert text == "some\n"


async def test_killing_a_job_ends_all_that_it_started(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        await box.jobs.start("(setsid sh -c 'echo $$ > daemon; sleep 600' &) ; sleep 600", job_id="j")
        while not await _exists(box, "daemon"):
            await asyncio.sleep(0.01)
        daemon = int(await box.files.read("daemon"))
        await box.jobs.kill("j")
        assert not is_alive(daemon)
        info = await box.jobs.get("j")
        assert (info.status, info.exit_code, info.timed_out) == (JobStatus.EXITED, 137, False)
        await box.jobs.kill("j")


async def _exists(box: Box, path: str) -> bool:
    return (await box.exec.command(["test", "-s", path])).ok


async def test_a_signal_reaches_the_job(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        trap = "trap 'echo asked; exit 7' INT; echo up > up; while :; do sleep 0.05; done"
        job = await box.jobs.start(["sh", "-c", trap], job_id="j")
        while not await _exists(box, "up"):
            await asyncio.sleep(0.01)
        await job.signal("INT")
        assert (await job.wait(timeout=30)).exit_code in (7, 130)
        await job.signal("INT")
        with pytest.raises(ValueError, match="NOPE"):
            await job.signal("NOPE")


async def test_what_ends_a_job_from_within_shows_in_its_exit_code(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        job = await box.jobs.start("kill -9 $$")
        assert (await job.wait(timeout=30)).exit_code == 137


async def test_a_job_whose_watcher_is_killed_is_lost_and_says_so(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        job = await box.jobs.start("echo some; sleep 600", job_id="j")
        while not [piece async for piece in box.jobs.logs("j")]:
            await asyncio.sleep(0.01)
        watcher = (await box.exec.command('read pid _ < "$BOXFLOW_JOBS/jj/pid"; kill -9 $pid', check=True)).exit_code
        assert watcher == 0
        with pytest.raises(JobLostError, match="'j' ended without an exit status"):
            await job.wait(timeout=30)
        assert (await job.info()).status is JobStatus.LOST
        assert [piece.text async for piece in job.logs(follow=True)] == ["some\n"]


async def test_a_job_that_does_not_exist_is_an_error_everywhere(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        for asked in (
            box.jobs.get("none"),
            box.jobs.wait("none"),
            box.jobs.kill("none"),
            box.jobs.signal("none", 2),
            written(box, "none"),
        ):
            with pytest.raises(JobNotFoundError, match="none"):
                await asked
        assert await box.jobs.list() == []


async def test_a_program_that_is_not_there_starts_no_job(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        with pytest.raises(SandboxError, match="its program is not in the box"):
            await box.jobs.start(["no-such-program"], job_id="j")
        assert await box.jobs.list() == []
        job = await box.jobs.start(["true"], job_id="j")
        assert (await job.wait()).ok


async def test_directory_environment_and_input_reach_the_job(tmp_path: Path) -> None:
    async with a_box(tmp_path, env={"A": "box", "B": "box"}) as box:
        await box.files.mkdir("sub")
        job = await box.jobs.start("pwd; echo $A $B; wc -c", cwd="sub", env={"B": "job"}, stdin=b"x" * 300_000)
        lines = (await job.wait(check=True)).stdout.split("\n")
        assert lines[0].endswith("/sub")
        assert (lines[1], lines[2].strip()) == ("box job", "300000")


async def test_unusual_ids_are_kept_apart(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        ids = ["a/b", "a_b", "..", "ü ' \" $x\n", "-rf", "%2e", "."]
        for number, job_id in enumerate(ids):
            await (await box.jobs.start(f"echo {number}", job_id=job_id)).wait()
        assert sorted(info.job_id for info in await box.jobs.list()) == sorted(ids)
        for number, job_id in enumerate(ids):
            assert (await box.jobs.wait(job_id)).stdout == f"{number}\n"
        for wrong in ("", "x" * 300):
            with pytest.raises(ValueError, match="characters"):
                await box.jobs.start("true", job_id=wrong or "\x00" * 300)


async def test_much_output_keeps_its_beginning_and_its_end_and_fills_no_disk(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        job = await box.jobs.start("echo head; yes abcdefghijklmno | head -c 300000000; echo tail", job_id="j")
        result = await box.jobs.wait("j", timeout=50, max_output_bytes=10_000)
        assert result.truncated
        assert result.stdout.startswith("head\nabc") and result.stdout.endswith("mno\ntail\n")
        assert "bytes left out" in result.stdout
        kept = sum(entry.stat().st_size for entry in tmp_path.rglob("out.*"))
        assert kept < 110_000_000
        gaps, at, size = 0, 0, 0
        async for piece in job.logs(offset=3):
            gaps += piece.offset != at and at != 0
            at = piece.offset + len(piece.data)
            size += len(piece.data)
        assert (at, gaps) == (300_000_010, 1)
        assert size == kept - 3


async def test_an_endless_output_can_be_stopped(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        job = await box.jobs.start("yes", job_id="j")
        size = 0
        async for piece in job.logs(follow=True):
            size += len(piece.data)
            if size > 5_000_000:
                break
        await job.kill()
        assert (await box.jobs.wait("j", max_output_bytes=1000)).exit_code == 137


async def test_what_a_job_left_running_does_not_hold_it_open(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        job = await box.jobs.start("sleep 600 & echo started")
        assert (await job.wait(timeout=30)).stdout == "started\n"


async def test_waiting_that_is_given_up_leaves_the_job_alone(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        job = await box.jobs.start("until [ -e go ]; do sleep 0.01; done; echo done", job_id="j")
        with pytest.raises(TimeoutError, match=r"'j' goes on after 0\.1 s"):
            await job.wait(timeout=0.1)
        await box.files.write("go", "")
        assert (await job.wait(timeout=30)).stdout == "done\n"


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
async def test_each_shell_runs_jobs_alike(
    tmp_path: Path, shell: str, need: Callable[[str, bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = shutil.which(shell)
    need(shell, found is not None)
    assert found is not None
    programs = tmp_path / "bin"
    programs.mkdir()
    names = ["sh"]
    if shell == "busybox":
        names += ["cat", "dd", "head", "ln", "mkdir", "mkfifo", "mv", "rm", "sleep", "tail", "wc", "date", "tr"]
    for name in names:
        (programs / name).symlink_to(found)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    async with a_box(tmp_path / "boxes") as box:
        script = "cat; echo err >&2; head -c 2000000 /dev/zero | tr '\\0' x; sleep 600 & exit 9"
        job = await box.jobs.start(["sh", "-c", script], job_id="j", stdin="in\n")
        result = await box.jobs.wait("j", timeout=30, max_output_bytes=3_000_000)
        assert (result.exit_code, result.stderr) == (9, "err\n")
        assert result.stdout == "in\n" + "x" * 2_000_000
        assert sum([len(p.data) async for p in job.logs(offset=1_000_000) if p.stream == "stdout"]) == 1_000_003
        running = await box.jobs.start(["sh", "-c", "echo up; sleep 600"], job_id="k")
        async for piece in running.logs(follow=True):
            assert piece.data == b"up\n"
            break
        await running.kill()
        assert (await running.info()).exit_code == 137


async def test_logs_in_a_workflow_body_say_what_to_do_instead(tmp_path: Path) -> None:
    class Owner:
        async def box_call(self, *args: object, **options: object) -> object:
            raise AssertionError("nothing is called")

    async with a_box(tmp_path) as box:
        asyncio.get_running_loop().owner = Owner()  # type: ignore[attr-defined] # as a private loop has it
        try:
            with pytest.raises(NotDurableError, match="read it in a step"):
                await anext(box.jobs.logs("j"))
        finally:
            del asyncio.get_running_loop().owner  # type: ignore[attr-defined] # as above


async def test_what_a_command_wrote_is_there_at_its_end_however_late_it_is_read(tmp_path: Path) -> None:
    # Reading begins late, as on a machine that is busy for a second.
    slow = tmp_path / "bin" / "dd"
    slow.parent.mkdir()
    slow.write_text('#!/bin/sh\ni=0; while [ $i -lt 1500000 ]; do i=$((i + 1)); done\nexec /bin/dd "$@"\n')
    slow.chmod(0o755)
    async with a_box(tmp_path / "boxes") as box:
        path = f"{slow.parent}:{os.environ['PATH']}"
        # A process in the background holds the streams open.
        job = await box.jobs.start("echo written; sleep 30 & exit 3", env={"PATH": path})
        result = await job.wait(timeout=60)
    assert (result.stdout, result.exit_code) == ("written\n", 3)
