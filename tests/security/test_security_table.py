"""Every cell of the table in docs/security-of-boxes.md is an attack that is really made, and says what comes of it."""

from __future__ import annotations

import gc
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import docker
import pytest
from docker_image import engine_answers, tools_image
from security.attacks import ATTACKS, GROUPS
from security.careless import spring
from security.outcome import Outcome
from security.profiles import PROFILES
from security.scene import ENGINE_SECRET, GATE_SECRET, Scene
from security.table import CONDITIONS, PAGE, TableError, read_cell, read_table

ROOT = Path(__file__).parent.parent.parent
TABLE = read_table(PAGE.read_text())

#: A user that nobody is: what is said of those who are not root is tried as one of them.
STRANGER = 54_321

#: The one that runs this may be below root's home, where nobody else comes; the system's may be the same version.
PYTHONS = (sys.executable, f"/usr/bin/python3.{sys.version_info[1]}", "/usr/bin/python3")

#: Attacks that nothing lets through: whether they would succeed if something did is shown by itself.
TRAPS = [
    title for title, cells in TABLE.items() if {cell.text.partition(":")[0] for cell in cells.values()} == {"held"}
]


def docker_answers() -> bool:
    """Whether there is an engine to test with."""
    # Where there is none, the docker package leaves a socket open, of which Python warns when it comes by.
    with warnings.catch_warnings(action="ignore"):
        found = engine_answers()
        gc.collect()
    return found


ANSWERS = docker_answers()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other users reach, with a short path: sockets will be in it."""
    made = Path(tempfile.mkdtemp(prefix="bfs-", dir="/tmp"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made)


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("profile", ["local", "bubblewrap"])
def test_locally_the_table_says_what_holds(
    profile: str, group: str, place: Path, need: Callable[[str, bool], None]
) -> None:
    need(PROFILES[profile].needs or "", PROFILES[profile].needs is None or shutil.which("bwrap") is not None)
    compare(profile, group, place, Engine())


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("profile", ["local", pytest.param("bubblewrap", marks=pytest.mark.thorough)])
def test_locally_the_table_says_what_holds_for_those_who_are_not_root(
    profile: str, group: str, place: Path, need: Callable[[str, bool], None]
) -> None:
    need(PROFILES[profile].needs or "", PROFILES[profile].needs is None or shutil.which("bwrap") is not None)
    if os.geteuid() != 0:
        pytest.skip("whoever runs this is not root, so the other test shows it")
    python = next((path for path in PYTHONS if can_run(path, STRANGER)), None)
    need("a Python that other users can run", python is not None)
    os.chown(place, STRANGER, STRANGER)
    compare(profile, group, place, Engine(python=python or "", user=STRANGER))


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.docker
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("profile", ["docker", pytest.param("docker-disk", marks=pytest.mark.thorough)])
def test_in_docker_the_table_says_what_holds(
    profile: str, group: str, place: Path, need: Callable[[str, bool], None]
) -> None:
    need("docker", ANSWERS)
    compare(profile, group, place, Engine(image=tools_image()))


def test_every_row_is_an_attack_and_every_attack_a_row() -> None:
    assert list(TABLE) == list(ATTACKS)


def test_every_column_is_a_sandbox_that_is_attacked() -> None:
    columns = [profile.column for profile in PROFILES.values()]
    assert [list(cells) for cells in TABLE.values()] == [columns] * len(TABLE)


def test_a_cell_that_says_nothing_is_refused() -> None:
    for text in ("", "mostly held", "held (on Sundays) / not held", "held (root)", "held / not held"):
        with pytest.raises(TableError):
            read_cell(text)
    cell = read_cell("not held (root) / held: no such right")
    assert (cell.verdict({"root"}), cell.verdict(())) == ("not held", "held")


@pytest.mark.parametrize("title", TRAPS)
async def test_the_trap_catches_an_engine_that_does_not_look(
    title: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (ENGINE_SECRET, GATE_SECRET):
        monkeypatch.setenv(name, secrets.token_hex(12))
    (place / "box").mkdir()
    scene = Scene(place)
    async with scene.set():
        outcome = await spring(scene, ATTACKS[title], place / "box")
    assert outcome.succeeded, outcome.words


# --- how


@attrs.frozen(kw_only=True)
class Engine:
    """The process that is attacked: which Python, as which user, and what its Docker boxes are made from."""

    python: str = sys.executable
    user: int | None = None
    image: str = ""

    def attacked(self, profile: str, titles: Sequence[str], directory: Path) -> dict[str, Outcome]:
        """What comes of the attacks."""
        try:
            return self._obeys(profile, titles, directory)
        except BaseException:
            # It died in the middle. The next one finds the boxes of a dead one, and deletes them.
            self._obeys(profile, [], directory)
            raise

    def _obeys(self, profile: str, titles: Sequence[str], directory: Path) -> dict[str, Outcome]:
        orders = {"profile": profile, "titles": titles, "directory": str(directory), "image": self.image}
        done = subprocess.run(
            [self.python, "-W", "error", "-m", "security.engine"],
            input=json.dumps(orders),
            env=environment(directory),
            user=self.user,
            group=self.user,
            extra_groups=None if self.user is None else [],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return {title: Outcome(**told) for title, told in json.loads(done.stdout.splitlines()[-1]).items()}

    def conditions(self) -> set[str]:
        """Which of the table's conditions are true for it."""
        found = set()
        if self.user is None and os.geteuid() == 0:
            found.add("root")
        if self.user is None and ANSWERS:
            found.add("may use Docker")
        if ANSWERS:
            version = docker_version()
            found |= {one for one in CONDITIONS if one.startswith("Docker < ") and version < int(one[9:])}
        return found


def compare(profile: str, group: str, place: Path, engine: Engine) -> None:
    """Make the attacks of a group, and find every cell that does not say what came of them."""
    titles = [
        name for name, attack in ATTACKS.items() if attack.group == group and (ANSWERS or not attack.needs_docker)
    ]
    true = engine.conditions()
    wrong, not_judged = [], []
    for title, outcome in engine.attacked(profile, titles, place).items():
        cell = TABLE[title][PROFILES[profile].column]
        seen = ATTACKS[title].verdict(outcome.succeeded)
        if cell.verdict(true) == seen:
            continue
        if outcome.outside is False:
            # Whoever is outside of all boxes is refused as well: this machine cannot show what the sandbox does.
            not_judged.append(title)
        else:
            where = f"row {title!r}, column {PROFILES[profile].column!r}"
            wrong.append(f"{where}: the cell is {cell.text!r}, and it is {seen!r} ({outcome.words})")
    if not_judged:
        print(f"this machine refuses to everybody, so {profile} is not judged by: {', '.join(not_judged)}")
    who = "root" if "root" in true else "somebody who is not root"
    assert not wrong, f"for {who}, {PAGE.name} must be changed:\n" + "\n".join(wrong)


def environment(directory: Path) -> dict[str, str]:
    """Of an engine, with secrets of its own in it."""
    installed = [path for path in sys.path if "site-packages" in path]
    path = [str(ROOT), str(ROOT / "backends"), str(ROOT / "tests"), *installed]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "HOME": str(directory),
        "TMPDIR": str(directory),
        "SECURITY_TEST_ENGINE_SECRET": secrets.token_hex(12),
        "SECURITY_TEST_GATE_SECRET": secrets.token_hex(12),
    }


def can_run(python: str, user: int) -> bool:
    """Whether *user* may run the engine with *python*."""
    version = f"import security.engine, sys; assert sys.version_info[:2] == {sys.version_info[:2]}"
    try:
        done = subprocess.run(
            [python, "-c", version],
            env=environment(Path("/")),
            user=user,
            group=user,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            timeout=60,
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0


def docker_version() -> int:
    """Its first number."""
    client: Any = docker.from_env()  # type: ignore[attr-defined]  # the package has no types
    try:
        return int(client.version()["Version"].partition(".")[0])
    finally:
        client.close()
