"""Boxes in memory do what a test's script says: commands, processes, jobs, git, failures; in virtual time."""

from __future__ import annotations

import asyncio
import re
import signal

import pytest

from boxflow import Boxes, Context, workflow
from boxflow.errors import (
    CommandFailedError,
    CommandTimeoutError,
    ConfigurationError,
    NotSupportedError,
    SandboxError,
    SandboxUnavailableError,
    StepFailedError,
)
from boxflow.ports import BoxSpec, Capability, ProcessSpec, TerminalSize
from boxflow.testing import FakeCommand, FakeSandbox, Reply, UnansweredError, World

# --- rules ---------------------------------------------------------------------------------------------------------


async def outputs(sandbox: FakeSandbox, *commands: str | list[str]) -> list[str]:
    async with Boxes(sandbox).create("box") as box:
        return [(await box.exec.command(command)).stdout for command in commands]


async def test_the_rule_that_was_added_last_answers() -> None:
    sandbox = FakeSandbox()
    sandbox.on("make *", stdout="any")
    sandbox.on("make test", stdout="exact")
    sandbox.on(re.compile(r"^make d.*s$"), stdout="expression")
    sandbox.on(lambda command: command.argv[0] == "printf", stdout="function")
    found = await outputs(sandbox, "make it", "make test", "make docs", ["printf", "x y"])
    assert found == ["any", "exact", "expression", "function"]


async def test_a_rule_answers_so_many_times_and_then_the_one_before_it() -> None:
    sandbox = FakeSandbox()
    sandbox.on("flaky", stdout="well")
    sandbox.on("flaky", exit_code=1, stdout="ill", times=2)
    assert await outputs(sandbox, *["flaky"] * 3) == ["ill", "ill", "well"]


async def test_a_command_that_nothing_answers_says_how_to_answer_it() -> None:
    with pytest.raises(UnansweredError, match=r"'make all' in box 'box'; answer it: sandbox.on\('make all'"):
        await outputs(FakeSandbox(), "make all")


async def test_a_function_gives_output_status_reply_or_nothing() -> None:
    sandbox = FakeSandbox()
    sandbox.on("text", lambda command: f"in {command.box.name}")
    sandbox.on("status", lambda command: 7)
    sandbox.on("reply", lambda command: Reply(exit_code=2, stderr="why"))
    sandbox.on("nothing", lambda command: None)
    async with Boxes(sandbox).create("a box") as box:
        found = [await box.exec.command(text) for text in ("text", "status", "reply", "nothing")]
    assert [(each.exit_code, each.stdout, each.stderr) for each in found] == [
        (0, "in a box", ""), (7, "", ""), (2, "", "why"), (0, "", ""),
    ]  # fmt: skip


async def test_a_function_that_gives_something_else_says_what_it_may_give() -> None:
    sandbox = FakeSandbox()
    sandbox.on("odd", lambda command: ["a"])  # type: ignore[arg-type, return-value] # that is what is shown
    with pytest.raises(TypeError, match=r"'odd' gave \['a'\]; give a Reply"):
        await outputs(sandbox, "odd")


async def test_an_exception_is_what_starting_the_command_raises() -> None:
    sandbox = FakeSandbox()
    sandbox.on("gone", SandboxError("the program is gone"))
    with pytest.raises(SandboxError, match="is gone"):
        await outputs(sandbox, "gone")


def test_a_reply_that_is_said_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not both"):
        FakeSandbox().on("x", Reply(), exit_code=1)


async def test_what_was_run_can_be_asked_for() -> None:
    sandbox = FakeSandbox()
    sandbox.on("*")
    async with Boxes(sandbox).create("box", env={"A": "box"}) as box:
        await box.files.mkdir("sub")
        await box.exec.command(["tool", "a b"], cwd="sub", env={"B": "call"}, stdin="given")
        await box.exec.code("print(1)")
    tool, code = sandbox.commands
    assert (tool.command, tool.argv, tool.cwd, tool.stdin, tool.exit_code) == (
        "tool 'a b'", ("tool", "a b"), "sub", b"given", 0,
    )  # fmt: skip
    assert (tool.env["A"], tool.env["B"], tool.env["HOME"]) == ("box", "call", "/home/box")
    assert (code.command, code.stdin) == ("python code", b"print(1)")
    assert sandbox.ran("tool *") == [tool]
    assert [call.operation for call in sandbox.calls] == ["create", "make_directory", "spawn", "spawn", "delete"]


# --- failures on order ---------------------------------------------------------------------------------------------


async def test_an_operation_fails_as_often_as_it_was_ordered_to() -> None:
    sandbox = FakeSandbox()
    sandbox.fail_next("create", SandboxUnavailableError("down"), times=2)
    boxes = Boxes(sandbox)
    for _ in range(2):
        with pytest.raises(SandboxUnavailableError, match="down"):
            await boxes.create("a")
    await boxes.create("a")
    assert len(sandbox.boxes) == 1


def test_an_operation_that_there_is_not_cannot_be_made_to_fail() -> None:
    with pytest.raises(ConfigurationError, match="no operation 'creat'"):
        FakeSandbox().fail_next("creat", SandboxError())


async def test_a_run_survives_a_sandbox_that_is_away_for_a_while() -> None:
    @workflow
    async def body(ctx: Context, _: None) -> str:
        async with ctx.box("a") as box:
            return (await box.exec.command("work")).stdout

    async with World() as world:
        world.sandbox.on("work", stdout="done")
        for operation in ("create", "spawn", "delete"):
            world.sandbox.fail_next(operation, SandboxUnavailableError("away"), times=2)
        assert await world.run(body) == "done"
        assert world.boxes_left == []


async def test_what_it_lacks_it_refuses() -> None:
    sandbox = FakeSandbox(capabilities={Capability.SNAPSHOT})
    with pytest.raises(NotSupportedError, match="network"):
        await Boxes(sandbox).create("a", network="none")
    box = await Boxes(sandbox).create("a")
    with pytest.raises(NotSupportedError, match="pause"):
        await box.pause()


# --- processes -----------------------------------------------------------------------------------------------------


async def test_a_session_is_talked_with() -> None:
    async def greeter(command: FakeCommand) -> int:
        while line := await command.readline():
            command.write(f"hello {line.decode()}")
        command.write_error("end")
        return 3

    sandbox = FakeSandbox()
    sandbox.on("greet", greeter)
    async with Boxes(sandbox).create("box") as box, box.exec.session("greet") as session:
        await session.stdin.write("ada\n")
        chunk = await session.read()
        assert chunk is not None and (chunk.stream, chunk.text) == ("stdout", "hello ada\n")
        await session.stdin.close()
        assert [(each.stream, each.text) async for each in session] == [("stderr", "end")]
        assert await session.wait() == 3


async def endless(command: FakeCommand) -> int:
    command.write("up\n")
    await asyncio.Event().wait()
    return 0


async def test_a_process_is_ended_by_its_handle_its_name_a_signal_and_with_its_box() -> None:
    sandbox = FakeSandbox()
    sandbox.on("endless *", endless)
    await sandbox.create("b", BoxSpec(), {})
    started = [
        await sandbox.spawn("b", ProcessSpec(argv=("endless", name), exec_id=name)) for name in ("a", "b", "c", "d")
    ]
    await started[0].kill()
    await sandbox.end("b", "b")
    await sandbox.signal("b", "c", signal.SIGWINCH)
    await sandbox.signal("b", "c", signal.SIGTERM)
    assert [await process.wait() for process in started[:3]] == [137, 137, 143]
    await sandbox.delete("b")
    assert await started[3].wait() == 137
    assert sandbox.ran("endless c")[0].signals == [signal.SIGWINCH, signal.SIGTERM]


async def test_a_start_that_is_killed_before_its_first_turn_has_ended() -> None:
    sandbox = FakeSandbox()
    sandbox.on("endless", endless)
    await sandbox.create("b", BoxSpec(), {})
    process = await sandbox.spawn("b", ProcessSpec(argv=("endless",)))
    await process.kill()
    assert await process.wait() == 137
    assert [chunk async for chunk in process.read()] == []


async def test_a_terminal_has_its_size_and_its_keys() -> None:
    sandbox = FakeSandbox()
    sandbox.on("endless", endless)
    box = await Boxes(sandbox).create("box")
    async with box.exec.session(["endless"], tty=TerminalSize(columns=10, rows=5)) as session:
        await session.resize(20, 6)
        await session.stdin.write("\x03")
        assert await session.wait() == 130


async def test_a_paused_box_stands_still() -> None:
    @workflow
    async def body(ctx: Context, _: None) -> float:
        box = await ctx.box("a")
        waiting = asyncio.create_task(box.exec.command("work"))
        await asyncio.sleep(10)
        await box.pause()
        await asyncio.sleep(20)
        await box.resume()
        return (await waiting).duration_s

    async with World() as world:
        world.sandbox.on("work", delay="15s")
        assert await world.run(body) == 30.0


async def test_a_command_that_takes_longer_than_its_timeout_is_killed_in_virtual_time() -> None:
    async def in_a_step(box_id: str) -> str:
        box = await world.boxes.get(box_id)
        with pytest.raises(CommandTimeoutError) as caught:
            await box.exec.command("slow", timeout="2h")
        return caught.value.stdout

    @workflow
    async def body(ctx: Context, _: None) -> str:
        box = await ctx.box("a")
        with pytest.raises(CommandTimeoutError, match="killed after 3600 s"):
            await box.exec.command("slow", timeout="1h")
        return await ctx.run("step", in_a_step, box.id)

    async def slow(command: FakeCommand) -> None:
        command.write("begun")
        await command.sleep("10d")

    async with World() as world:
        began = world.now
        world.sandbox.on("slow", slow)
        assert await world.run(body) == "begun"
        assert (world.now - began).total_seconds() == 3 * 3600
        assert [command.exit_code for command in world.sandbox.ran("slow")] == [137, 137]


# --- jobs ----------------------------------------------------------------------------------------------------------


async def test_a_job_is_followed_signalled_killed_and_listed() -> None:
    async def server(command: FakeCommand) -> int:
        for number in range(3):
            command.write(f"tick {number}\n")
            await command.sleep(1)
        return 5

    async def story(box_id: str) -> list[object]:
        box = await world.boxes.get(box_id)
        first = await box.jobs.start("server", job_id="first")
        assert (await box.jobs.start("server", job_id="first")).id == "first"
        text = "".join([piece.text async for piece in first.logs(follow=True)])
        done = await first.wait()
        rest = "".join([piece.text async for piece in first.logs(offset=7)])
        hung = await box.jobs.start(["endless"])
        with pytest.raises(TimeoutError, match="goes on after 30 s"):
            await hung.wait(timeout=30)
        await hung.signal("TERM")
        killed = await box.jobs.start(["endless"], job_id="killed", stdin="input")
        await killed.kill()
        infos = [[info.command, info.status.value, info.exit_code] for info in await box.jobs.list()]
        return [text, done.exit_code, done.duration_s, rest, infos]

    @workflow
    async def body(ctx: Context, _: None) -> list[object]:
        box = await ctx.box("a")
        return await ctx.run("story", story, box.id, type=list)

    async with World() as world:
        world.sandbox.on("server", server)
        world.sandbox.on("endless", endless)
        text, status, duration_s, rest, infos = await world.run(body)
        assert (text, status, duration_s, rest) == ("tick 0\ntick 1\ntick 2\n", 5, 3.0, "tick 1\ntick 2\n")
        assert sorted(infos) == [
            ["endless", "exited", 137],
            ["endless", "exited", 143],
            ["server", "exited", 5],
        ]
        assert len(world.sandbox.ran("server")) == 1
        assert world.sandbox.ran("endless")[1].stdin == b"input"


@workflow
async def building(ctx: Context, _: None) -> str:
    async with ctx.box("a") as box:
        return (await box.exec.command("build", timeout="5h")).stdout


async def test_a_command_of_a_body_outlives_its_engine_and_is_run_once() -> None:
    sandbox = FakeSandbox()
    sandbox.on("build", stdout="built", delay="3h")
    async with World(sandbox=sandbox, jumps=False) as first:
        await first.start(building)
        await first.advance("1h")
        store, now = first.engine.store, first.now
    async with World([building], store=store, sandbox=sandbox, start=now) as second:
        run = await second.engine.get("building-1")
        assert await run.result() == "built"
        assert (second.now - now).total_seconds() == 2 * 3600
        assert len(sandbox.ran("build")) == 1
        assert second.boxes_left == []
    sandbox.stop()


async def test_an_error_of_the_script_reaches_the_body_and_not_a_lost_job() -> None:
    def broken(command: FakeCommand) -> None:
        raise ValueError("the script is broken")

    @workflow
    async def body(ctx: Context, _: None) -> str:
        box = await ctx.box("a")
        with pytest.raises(StepFailedError) as caught:
            await box.exec.command("x")
        return str(caught.value)

    async with World() as world:
        world.sandbox.on("x", broken)
        assert "the script is broken" in await world.run(body)


async def test_long_output_is_cut_in_its_middle() -> None:
    @workflow
    async def body(ctx: Context, _: None) -> bool:
        box = await ctx.box("a")
        result = await box.exec.command("chatter", max_output_bytes=100)
        assert result.stdout.startswith("xxx") and result.stdout.endswith("end") and len(result.stdout) < 200
        return result.truncated

    async with World() as world:
        world.sandbox.on("chatter", stdout="x" * 5000 + "end")
        assert await world.run(body)


# --- git -----------------------------------------------------------------------------------------------------------

URL = "https://example.org/project.git"


async def test_a_clone_can_be_changed_looked_at_and_committed() -> None:
    sandbox = FakeSandbox()
    sandbox.repository(URL, {"README.md": "one\n", "src/a.py": "a = 1\n", "old": "x"})
    sandbox.on("git log *", stdout="scripted")
    async with Boxes(sandbox).create("box") as box:
        await box.git.clone(URL)
        await box.git.clone(URL)
        assert (await box.git.status()).clean and await box.git.diff() == ""
        await box.files.write("README.md", "two\n")
        await box.files.write("new.txt", "n")
        await box.files.remove("old")
        diff = await box.git.diff()
        assert "--- a/README.md\n+++ b/README.md\n@@ -1 +1 @@\n-one\n+two\n" in diff
        assert "diff --git a/new.txt b/new.txt\nnew file mode 100644\n--- /dev/null\n" in diff
        assert await box.git.diff(files=["src"]) == ""
        status = await box.git.status()
        assert {change.path: change.code for change in status.changes} == {
            "README.md": " M", "new.txt": "??", "old": " D",
        }  # fmt: skip
        commit = await box.git.commit("second", author="A <a@example.org>")
        assert re.fullmatch(r"[0-9a-f]{40}", commit) and (await box.git.status()).commit == commit
        with pytest.raises(CommandFailedError):
            await box.git.commit("nothing")
        await box.git.push()
        assert (await box.git.exec("log", "-1")).stdout == "scripted"
        with pytest.raises(UnansweredError, match=r"cannot 'git blame README.md'"):
            await box.git.exec("blame", "README.md")


async def test_a_repository_that_nobody_gave_says_how_to_give_it() -> None:
    async with Boxes(FakeSandbox()).create("box") as box:
        with pytest.raises(UnansweredError, match=r"sandbox\.repository"):
            await box.git.clone(URL)
        with pytest.raises(CommandFailedError, match="not a git repository"):
            await box.git.status()


async def test_a_snapshot_keeps_the_clone() -> None:
    sandbox = FakeSandbox()
    sandbox.repository(URL, {"f": "one\n"})
    boxes = Boxes(sandbox)
    box = await boxes.create("box")
    await box.git.clone(URL)
    await box.files.write("f", "two\n")
    restored = await boxes.create("again", snapshot=await box.snapshot("kept"))
    assert "+two" in await restored.git.diff()
    assert sandbox.box("again").read("f") == "two\n"
