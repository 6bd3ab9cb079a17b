"""A git repository as the demo needs one: four small SDKs of one API, and a change that only Python has got."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

README = """\
# Weather SDKs

One API, four languages. A change is made in `python/` first and then ported to the others.
"""

SDKS = {
    "python/weather.py": '''\
"""A client for the weather API."""

BASE_URL = "https://weather.example.org/v1"


def celsius(kelvin: float) -> float:
    """Degrees Celsius, from what the API sends."""
    return kelvin - 273.15
''',
    "go/weather.go": """\
// Package weather is a client for the weather API.
package weather

import "math"

const BaseUrl = "https://weather.example.org/v1"

// Degrees Celsius, from what the API sends, to two places.
func Celsius(kelvin float64) float64 {
	return math.Round((kelvin-273.15)*100) / 100
}
""",
    "typescript/weather.ts": """\
/** A client for the weather API. */

export const BASE_URL = "https://weather.example.org/v1";

/** Degrees Celsius, from what the API sends. */
export function celsius(kelvin: number): number {
  return kelvin - 273.15;
}
""",
    "ruby/weather.rb": """\
# A client for the weather API.
module Weather
  BASE_URL = "https://weather.example.org/v1"

  # Degrees Celsius, from what the API sends.
  def self.celsius(kelvin)
    kelvin - 273.15
  end
end
""",
}

CHANGE = '''\

MAX_DELAY = 30.0


def retry_delay(attempt: int, base: float) -> float:
    """Seconds to wait before the next attempt: twice as long each time, up to MAX_DELAY."""
    return min(base * 2**attempt, MAX_DELAY)


def feels_like(temperature: float, wind: float) -> float:
    """Wind chill in degrees Celsius (the formula that Canada and the USA agreed on in 2001)."""
    cooling = wind**0.16
    return 13.12 + 0.6215 * temperature - 11.37 * cooling + 0.3965 * temperature * cooling
'''


def make_repository(directory: Path) -> str:
    """Make the repository, unless it is there; return the commit with the change.

    Authors and dates are fixed, so that every repository made here has the same commits.
    """
    if not (directory / ".git").exists():
        directory.mkdir(parents=True, exist_ok=True)
        _git(directory, "init", "--quiet", "--initial-branch=main")
        (directory / "README.md").write_text(README, encoding="utf-8")
        _commit(directory, "Say what this is", day=1)
        for path, text in SDKS.items():
            (directory / path).parent.mkdir(exist_ok=True)
            (directory / path).write_text(text, encoding="utf-8")
        _commit(directory, "SDKs for Python, Go, TypeScript and Ruby", day=2)
        with (directory / "python/weather.py").open("a", encoding="utf-8") as file:
            file.write(CHANGE)
        _commit(directory, "python: delays between retries, and wind chill", day=3)
    return _git(directory, "rev-parse", "main")


def make_branch(directory: Path, branch: str, start: str, patches: Mapping[str, str]) -> None:
    """Make or replace *branch*: a commit for each patch on top of *start*. Touches no working tree."""
    index = directory / ".git" / f"index-of-{branch}"
    _git(directory, "read-tree", start, index=index)
    commit = start
    for message, patch in patches.items():
        _git(directory, "apply", "--cached", "-", index=index, text=patch)
        tree = _git(directory, "write-tree", index=index)
        commit = _git(directory, "commit-tree", tree, "-p", commit, "-m", message, date="2026-01-04T12:00:00Z")
    _git(directory, "update-ref", f"refs/heads/{branch}", commit)


def tree_of(directory: Path, branch: str) -> str:
    """What the branch holds, as git's hash of all of it: the same for the same files, whoever committed them when."""
    return _git(directory, "rev-parse", f"{branch}^{{tree}}")


def commits_of(directory: Path, branch: str) -> list[str]:
    """The subjects of the commits that *branch* has on top of main, oldest first."""
    return _git(directory, "log", "--reverse", "--format=%s", f"main..{branch}").splitlines()


def _commit(directory: Path, message: str, *, day: int) -> None:
    _git(directory, "add", "--all")
    _git(directory, "commit", "--quiet", f"--message={message}", date=f"2026-01-0{day}T12:00:00Z")


def _git(
    directory: Path, *args: str, date: str = "2026-01-01T12:00:00Z", index: Path | None = None, text: str | None = None
) -> str:
    person = {"NAME": "Ada Example", "EMAIL": "ada@example.org", "DATE": date}
    environment = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in person.items()}
    # Whatever the user's own git is set to (signing, hooks, another default branch) stays out of it.
    environment |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    if index is not None:
        environment["GIT_INDEX_FILE"] = str(index)
    environment = {**os.environ, **environment}
    done = subprocess.run(
        ["git", *args], cwd=directory, env=environment, input=text, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()
