"""Git in a box: cloning, looking at what changed, committing, pushing; and failing instead of asking."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from boxflow.boxes import Boxes
from boxflow.boxes.git import GitChange, parse_status, split_author
from boxflow.errors import CommandFailedError
from boxflow_backends.local_sandbox import LocalSandbox

AUTHOR = "A B <a@b.example>"


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A repository with two commits on main and a branch; a bare one, so that it can be pushed to."""
    seed = tmp_path / "seed"
    script = """
        git init -q -b main . && git config user.name o && git config user.email o@o.example
        mkdir sub && echo one > f && echo two > sub/g && printf '*.log\\n' > .gitignore
        git add . && git commit -qm first
        echo more >> f && git commit -qam second && git branch other
        git clone -q --bare . ../origin.git
    """
    seed.mkdir()
    subprocess.run(["sh", "-ec", script], cwd=seed, check=True)
    return tmp_path / "origin.git"


async def test_the_diff_shows_every_kind_of_change_and_applies_elsewhere(tmp_path: Path, origin: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path / "root")) as boxes, boxes.create() as box, boxes.create() as other:
        await box.git.clone(str(origin))
        await box.files.write("f", "changed\n")
        await box.files.write("new/ü file", "new\n")
        await box.files.write("binary", bytes(range(256)))
        await box.files.write("noise.log", "ignored")
        await box.files.remove("sub/g")
        await box.exec.command("git add binary", check=True)
        staged = (await box.git.exec("status", "--short")).stdout
        diff = await box.git.diff()
        assert "noise" not in diff
        assert (await box.git.exec("status", "--short")).stdout == staged
        await other.git.clone(str(origin))
        assert (await other.exec.command("git apply -", stdin=diff)).ok
        for path in ("f", "new/ü file", "binary"):
            assert await other.files.read_bytes(path) == await box.files.read_bytes(path)
        assert [info.path for info in await other.files.list()] == [".git", ".gitignore", "binary", "f", "new"]


async def test_the_diff_can_have_another_base_and_be_of_some_files(tmp_path: Path, origin: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path / "root")) as boxes, boxes.create() as box:
        await box.git.clone(str(origin))
        await box.files.write("new", "new\n")
        assert "+more" in await box.git.diff("HEAD~1")
        assert await box.git.diff(files=["f"]) == ""
        assert "+new" in await box.git.diff(files=["new"])
        with pytest.raises(CommandFailedError, match="nonsense"):
            await box.git.diff("nonsense")
        with pytest.raises(ValueError, match="no commit"):
            await box.git.diff("--output=/tmp/x")


async def test_a_repository_without_a_commit_has_a_diff_and_a_status(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes, boxes.create() as box:
        await box.git.exec("init", "-q", "-b", "main")
        await box.files.write("f", "x\n")
        assert "+x" in await box.git.diff()
        status = await box.git.status()
        assert (status.branch, status.commit, status.changes) == ("main", None, (GitChange(path="f", code="??"),))


async def test_a_clone_below_a_path_is_used_with_that_path(tmp_path: Path, origin: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path / "root")) as boxes, boxes.create() as box:
        await box.git.clone(str(origin), "repo", branch="other", depth=1)
        await box.files.write("repo/f", "changed\n")
        assert "+changed" in await box.git.diff(path="repo")
        status = await box.git.status(path="repo")
        assert status.branch == "other" and not status.clean
        with pytest.raises(CommandFailedError, match="not a git repository"):
            await box.git.status()


async def test_what_was_committed_can_be_pushed(tmp_path: Path, origin: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path / "root")) as boxes, boxes.create() as box:
        await box.git.clone(str(origin))
        await box.git.checkout("work", create=True)
        await box.files.write("f", "changed\n")
        commit = await box.git.commit("a message\n\nwith a body", author=AUTHOR)
        await box.git.push()
        pushed = subprocess.run(["git", "-C", origin, "rev-parse", "work"], capture_output=True, text=True, check=True)
        assert pushed.stdout.strip() == commit
        await box.git.checkout("main")
        assert await box.files.read("f") == "one\nmore\n"


async def test_git_says_why_it_refuses(tmp_path: Path, origin: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path / "root")) as boxes, boxes.create() as box:
        with pytest.raises(CommandFailedError, match=r"does not exist|not appear to be"):
            await box.git.clone(str(tmp_path / "missing"))
        await box.git.clone(str(origin))
        with pytest.raises(CommandFailedError, match=r"nothing to commit|exited with 1"):
            await box.git.commit("nothing", author=AUTHOR)
        with pytest.raises(CommandFailedError, match="not an empty directory"):
            await box.git.clone(f"file://{origin}")
        with pytest.raises(ValueError, match="must look like"):
            await box.git.commit("x", author="nobody")
        assert (await box.git.exec("rev-parse", "nonsense", check=False)).exit_code == 128


@pytest.mark.parametrize("place", [None, "repo"])
async def test_a_clone_that_was_cut_off_is_finished_and_a_whole_one_stays(
    tmp_path: Path, origin: Path, place: str | None
) -> None:
    async with Boxes(LocalSandbox(tmp_path / "root")) as boxes, boxes.create() as box:
        inside = place or "."
        await box.files.write(f"{inside}/.boxflow-clone.123456/it/.git/HEAD", "half")
        await box.git.clone(str(origin), place)
        assert (await box.git.status(path=inside)).clean
        # As if the crash had come between the repository and its files.
        await box.git.exec("config", "--unset", "boxflow.checkedOut", path=inside)
        await box.files.remove(f"{inside}/f")
        await box.git.clone(str(origin), place)
        assert await box.files.read(f"{inside}/f") == "one\nmore\n"
        await box.files.write(f"{inside}/f", "mine")
        await box.git.clone(str(origin), place)
        assert await box.files.read(f"{inside}/f") == "mine"


async def test_git_does_not_ask_for_a_password(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes, boxes.create() as box:
        credentials = await box.exec.command("printf 'protocol=https\\nhost=h\\n\\n' | git credential fill", timeout=30)
        assert credentials.exit_code != 0
        assert "terminal prompts disabled" in credentials.stderr


async def test_a_url_cannot_be_an_option(tmp_path: Path) -> None:
    async with Boxes(LocalSandbox(tmp_path)) as boxes, boxes.create() as box:
        with pytest.raises(CommandFailedError):
            await box.git.clone("--upload-pack=touch pwned")
        assert await box.files.list() == []


def test_every_line_of_a_status_is_read() -> None:
    lines = (
        "# branch.oid abc",
        "# branch.head (detached)",
        "1 .M N... 100644 100644 100644 a b changed file",
        "2 R. N... 100644 100644 100644 a b R100 to here",
        "from there",
        "u UU N... 100644 100644 100644 100644 a b c both",
        "? new file",
        "",
    )
    status = parse_status("\0".join(lines))
    assert (status.branch, status.commit) == (None, "abc")
    assert status.changes == (
        GitChange(path="changed file", code=" M"),
        GitChange(path="to here", code="R ", renamed_from="from there"),
        GitChange(path="both", code="UU"),
        GitChange(path="new file", code="??"),
    )


def test_an_author_is_a_name_and_a_mail() -> None:
    assert split_author("A B <a@b>") == ("A B", "a@b")
    for wrong in ("", "A", "<a@b>", "A <a@b> x", "A <a@b"):
        with pytest.raises(ValueError, match="must look like"):
            split_author(wrong)
