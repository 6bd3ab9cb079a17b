"""`box.git`: the repository in a box."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from boxflow.boxes.calls import call
from boxflow.boxes.command import DEFAULT_TIMEOUT_S, Command, ExecResult, raise_for
from boxflow.boxes.git_auth import GitAuth, refuse_credentials
from boxflow.boxes.job_commands import carry_out
from boxflow.errors import SandboxError
from boxflow.model import Duration, seconds
from boxflow.ports import Sandbox

# Git must fail where it would ask: there is nobody at the keyboard. And its messages are read by programs.
_NEVER_ASK: Final[Mapping[str, str]] = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
    "GIT_PAGER": "cat",
    "GIT_EDITOR": "true",
    "GIT_MERGE_AUTOEDIT": "no",
    "LC_ALL": "C.UTF-8",
}

# A diff is worthless with its middle cut out: the bound is far above what anybody reviews, and passing it an error.
_DIFF_BYTES = 64 * 1024 * 1024

# New files are entered in a copy of the index: looking at what changed must not change what `git commit` would do.
# $1 is the base or nothing; the paths follow. Without any commit the base is the empty tree.
_DIFF = """\
set -e
base=${1:-HEAD}; shift
if [ "$base" = HEAD ] && ! git rev-parse -q --verify HEAD >/dev/null; then base=$(git hash-object -t tree /dev/null); fi
index=$(git rev-parse --git-path index); copy=$(mktemp "${TMPDIR:-/tmp}/boxflow-index.XXXXXX")
trap 'rm -f "$copy"' EXIT
if [ -f "$index" ]; then cp "$index" "$copy"; else rm -f "$copy"; fi
GIT_INDEX_FILE=$copy; export GIT_INDEX_FILE
cd "$(git rev-parse --show-toplevel)"
git add --intent-to-add -- . >/dev/null
git diff --no-color --no-ext-diff --binary "$base" -- "$@"
"""

# A step of a body may run twice, with the first try cut off anywhere, or even still at work. So what is half done lies
# aside, and the repository appears by one rename; the files follow from it. $1 is the url, $2 the place, then options.
_CLONE = """\
set -e
url=$1 to=$2; shift 2
mine() { git --git-dir="$to/.git" config --get "boxflow.$1" 2>/dev/null || true; }
if [ "$(mine clonedFrom)" != "$url" ]; then
    rm -rf "$to"/.boxflow-clone.*
    # Where something else is, git says so itself.
    if [ -n "$(ls -A "$to" 2>/dev/null)" ]; then exec git clone "$@" -- "$url" "$to"; fi
    mkdir -p "$to"
    half=$(mktemp -d "$to/.boxflow-clone.XXXXXX")
    trap 'rm -rf "$half"; rmdir "$to" 2>/dev/null || true' EXIT
    git clone --no-checkout --config "boxflow.clonedFrom=$url" "$@" -- "$url" "$half/it"
    mv "$half/it/.git" "$to/.git"
    rm -rf "$half"
fi
if [ "$(mine checkedOut)" != yes ]; then
    if git -C "$to" rev-parse --quiet --verify HEAD >/dev/null; then git -C "$to" reset --quiet --hard; fi
    git -C "$to" config boxflow.checkedOut yes
fi
"""

_STATUS = ("git", "status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all")


@attrs.frozen(kw_only=True)
class GitChange:
    """One file that differs from the last commit.

    :param code: two letters as `git status --short` prints them, staged then not staged: `"M "`, `" M"`, `"A "`, `"??"`
    :param renamed_from: where it was, if it was moved
    """

    path: str
    code: str
    renamed_from: str | None = None


@attrs.frozen(kw_only=True)
class GitStatus:
    """Where a working tree stands.

    :param branch: None when no branch is checked out
    :param commit: None before the first commit
    """

    branch: str | None
    commit: str | None
    changes: tuple[GitChange, ...]

    @property
    def clean(self) -> bool:
        """Whether there is nothing to commit."""
        return not self.changes


class Git:
    """The repository in one box.

    `clone(url)` without a path clones *into* the box's working directory, so that every other call here, and
    `box.exec.command`, work on the repository without further ado. With a path, pass the same one as `path=` to the
    others. Git never asks for a password: it fails.

    Every method raises `CommandFailedError` with git's own words when git refuses, and `CommandTimeoutError` when it
    takes longer than `timeout=` (an hour unless given).
    """

    def __init__(self, sandbox: Sandbox, *, box_id: str, name: str) -> None:
        self._sandbox = sandbox
        self._box_id = box_id
        self._name = name

    async def clone(
        self,
        url: str,
        path: str | None = None,
        *,
        branch: str | None = None,
        depth: int | None = None,
        auth: GitAuth | None = None,
        timeout: Duration | None = None,
    ) -> None:
        """Clone *url* into the box's working directory, which must be empty, or into *path* below it.

        Doing it again changes nothing: where the clone of this *url* is, it stays as it is.

        :param branch: a branch or tag to check out, instead of the default branch
        :param depth: how many commits of history to fetch, instead of all
        :param auth: what the server asks for; it reaches git only, and no file of the box
        :raises ValueError: *url* has a password in it
        """
        refuse_credentials(url)
        # No hard links: a clone from a directory of this machine would share its object files with the original.
        argv = ["sh", "-c", _CLONE, "git clone", url, "." if path is None else path, "--quiet", "--no-hardlinks"]
        if branch is not None:
            argv.append(f"--branch={branch}")
        if depth is not None:
            argv.append(f"--depth={depth}")
        await self._git("clone", argv, auth=auth, timeout=timeout)

    async def diff(
        self, base: str = "HEAD", *, files: Sequence[str] = (), path: str | None = None, timeout: Duration | None = None
    ) -> str:
        """What the working tree changed since *base*, as a patch that `git apply` takes: staged or not, new files too.

        Files that `.gitignore` names are left out. Nothing is staged by looking.

        :param files: only these files or directories, relative to the top of the repository
        :raises SandboxError: the patch is larger than 64 MiB
        """
        if base.startswith("-"):
            raise ValueError(f"{base!r} is no commit")
        argv = ["sh", "-c", _DIFF, "git diff", base, *files]
        result = await self._git("diff", argv, path=path, timeout=timeout, max_output_bytes=_DIFF_BYTES)
        if result.truncated:
            raise SandboxError(f"the diff of {base!r} is larger than {_DIFF_BYTES} bytes; ask for some of its files")
        return result.stdout

    async def status(self, *, path: str | None = None, timeout: Duration | None = None) -> GitStatus:
        """The branch, the commit, and the files that differ from it."""
        result = await self._git("status", _STATUS, path=path, timeout=timeout, max_output_bytes=_DIFF_BYTES)
        return parse_status(result.stdout)

    async def commit(
        self, message: str, *, author: str | None = None, path: str | None = None, timeout: Duration | None = None
    ) -> str:
        """Commit everything that changed, new files too, and return the new commit's hash.

        :param author: `"Name <mail@example.org>"`; git's own configuration in the box unless given
        :raises CommandFailedError: git refused, because nothing changed or because it knows no author
        """
        script = 'git add --all && git commit --quiet "$@" >&2 && git rev-parse HEAD'
        argv = ["sh", "-c", script, "git commit", f"--message={message}"]
        env: dict[str, str] = {}
        if author is not None:
            name, email = split_author(author)
            env = {"GIT_AUTHOR_NAME": name, "GIT_AUTHOR_EMAIL": email}
            env |= {"GIT_COMMITTER_NAME": name, "GIT_COMMITTER_EMAIL": email}
        result = await self._git("commit", argv, path=path, env=env, timeout=timeout)
        return result.stdout.strip()

    async def checkout(
        self, ref: str, *, create: bool = False, path: str | None = None, timeout: Duration | None = None
    ) -> None:
        """Check out a branch, tag or commit.

        :param create: make it, as a branch that starts at the current commit
        """
        if ref.startswith("-"):
            raise ValueError(f"{ref!r} is no branch, tag or commit")
        argv = ["git", "checkout", "--quiet", "-b", ref] if create else ["git", "checkout", "--quiet", ref, "--"]
        await self._git("checkout", argv, path=path, timeout=timeout)

    async def push(
        self,
        remote: str = "origin",
        ref: str = "HEAD",
        *,
        force: bool = False,
        auth: GitAuth | None = None,
        path: str | None = None,
        timeout: Duration | None = None,
    ) -> None:
        """Push *ref* (the current branch unless given) to *remote*, a name or a URL.

        :param force: replace what is there, unless it has moved since it was last fetched
        :param auth: what the server asks for; it reaches git only, and no file of the box
        :raises ValueError: *remote* is a URL with a password in it
        """
        refuse_credentials(remote)
        argv = ["git", "push", "--quiet", *(["--force-with-lease"] if force else []), "--", remote, ref]
        await self._git("push", argv, path=path, auth=auth, timeout=timeout)

    async def exec(
        self,
        *args: str,
        auth: GitAuth | None = None,
        path: str | None = None,
        timeout: Duration | None = None,
        check: bool = True,
    ) -> ExecResult:
        """Run `git` with *args* in the repository.

        :param auth: what a server asks for, as in `fetch` or `pull`
        :param check: raise when git exits with another status than 0
        """
        return await self._git("exec", ["git", *args], path=path, auth=auth, timeout=timeout, check=check)

    async def _git(
        self,
        verb: str,
        argv: Sequence[str],
        *,
        path: str | None = None,
        env: Mapping[str, str] | None = None,
        auth: GitAuth | None = None,
        timeout: Duration | None = None,
        max_output_bytes: int | None = None,
        check: bool = True,
    ) -> ExecResult:
        timeout_s = DEFAULT_TIMEOUT_S if timeout is None else seconds(timeout)
        environment = {**_NEVER_ASK, **(env or {}), **(auth.environment() if auth else {})}
        command = Command(argv=argv, cwd=path, env=environment, timeout_s=timeout_s)
        if max_output_bytes is not None:
            command = attrs.evolve(command, max_output_bytes=max_output_bytes)
        described = shlex.join(argv) if argv[0] == "git" else f"git {verb}"
        result = await call(
            f"{self._name}.git.{verb}",
            lambda: carry_out(self._sandbox, self._box_id, command, described),
            type=ExecResult,
        )
        return raise_for(result, described, timeout_s=timeout_s, check=check)


def split_author(author: str) -> tuple[str, str]:
    """`"Name <mail>"` as name and mail.

    :raises ValueError: it has another form
    """
    name, opened, rest = author.partition("<")
    email, closed, after = rest.partition(">")
    if not (name.strip() and opened and closed) or after.strip():
        raise ValueError(f'author {author!r} must look like "Name <mail@example.org>"')
    return name.strip(), email.strip()


def parse_status(text: str) -> GitStatus:
    """Read `git status --porcelain=v2 --branch -z` (the format is in git-status(1))."""
    branch: str | None = None
    commit: str | None = None
    changes: list[GitChange] = []
    fields = iter(text.split("\0"))
    for field in fields:
        match field[:2]:
            case "# ":
                key, _, value = field[2:].partition(" ")
                if key == "branch.head" and value != "(detached)":
                    branch = value
                elif key == "branch.oid" and value != "(initial)":
                    commit = value
            case "1 ":
                changes.append(GitChange(path=field.split(" ", 8)[8], code=_letters(field)))
            case "2 ":
                changes.append(GitChange(path=field.split(" ", 9)[9], code=_letters(field), renamed_from=next(fields)))
            case "u ":
                changes.append(GitChange(path=field.split(" ", 10)[10], code=_letters(field)))
            case "? ":
                changes.append(GitChange(path=field[2:], code="??"))
            case _:
                continue
    return GitStatus(branch=branch, commit=commit, changes=tuple(changes))


def _letters(field: str) -> str:
    return field[2:4].replace(".", " ")
