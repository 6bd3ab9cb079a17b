"""The house rules that a program can check: imports, layers, names, scripts."""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import os
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import boxflow

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES = sorted([*(ROOT / "boxflow").rglob("*.py"), *(ROOT / "backends").rglob("*.py")])
LAYERS_FORBID = {contract["name"]: contract for contract in PROJECT["tool"]["importlinter"]["contracts"]}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "backends")])}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_importing_boxflow_imports_no_backend_and_no_optional_package() -> None:
    foreign = ["boxflow_backends", "starlette", "fastapi", "uvicorn", "docker", "pydantic", "rich", "httpx", "pytest"]
    found = run(sys.executable, "-c", f"import sys, boxflow; print([one for one in {foreign} if one in sys.modules])")
    assert found.stdout.strip() == "[]", found.stderr


LATE = ["boxflow.harness", *(f"boxflow.boxes.{one}" for one in ("agent", "exec", "files", "git", "jobs", "session"))]
"""What is done in boxes, and agents: loaded when it is first used."""


def test_importing_boxflow_loads_nothing_of_boxes_and_nothing_that_drives_runs() -> None:
    late = ["boxflow.boxes.", "boxflow.ports.box", "boxflow.ports.sandbox", "boxflow.agent_config", "boxflow.harness"]
    late += ["boxflow.hub", "boxflow.plugins", "boxflow.gateway", "anyio.to_thread", "json"]
    late += ["pathlib", "ipaddress"]  # For values of these types, which few programs keep.
    program = f"""
import sys
import asyncio, anyio, attrs, msgspec
before = set(sys.modules)
import boxflow
print([name for name in sorted(set(sys.modules) - before) if name.startswith({tuple(late)})])
"""
    found = run(sys.executable, "-c", program)
    assert found.stdout.strip() == "[]", found.stderr


def test_an_engine_whose_runs_have_no_boxes_loads_nothing_that_acts_in_boxes() -> None:
    program = f"""
import asyncio, sys
from boxflow import Context, Engine, workflow

async def work() -> int:
    return 7

@workflow
async def first(ctx: Context, _: None) -> int:
    return await ctx.run("work", work)

async def main() -> None:
    async with Engine([first]) as engine:
        assert await engine.run(first, None) == 7
    print([one for one in {LATE} if one in sys.modules])

asyncio.run(main())
"""
    found = run(sys.executable, "-c", program)
    assert found.stdout.strip() == "[]", found.stderr


@pytest.mark.parametrize("package", ["boxflow", "boxflow.boxes", "boxflow.ports"])
def test_every_public_name_can_be_imported_and_is_listed_also_where_it_is_loaded_late(package: str) -> None:
    names = list(importlib.import_module(package).__all__)
    imports = "; ".join(f"from {package} import {name}" for name in names)
    found = run(sys.executable, "-c", f"import {package} as it; print(sorted(set({names}) - set(dir(it)))); {imports}")
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "[]"


def test_type_hints_that_name_what_is_loaded_late_can_be_asked_for_at_any_time() -> None:
    program = """
from typing import get_type_hints
from boxflow import Context, Engine

print(get_type_hints(Context.box)["options"], get_type_hints(Engine.__init__)["sandbox"])
"""
    found = run(sys.executable, "-c", program)
    assert "BoxOptions" in found.stdout and "Sandbox" in found.stdout, found.stderr


def test_a_name_that_is_not_there_is_an_attribute_error_that_says_so() -> None:
    with pytest.raises(AttributeError, match="module 'boxflow' has no attribute 'Sandbocks'"):
        getattr(boxflow, "Sandbocks")  # noqa: B009 - by its name, which type checkers would refuse
    with pytest.raises(AttributeError, match=r"module 'boxflow\.boxes' has no attribute 'Sandbocks'"):
        getattr(boxflow.boxes, "Sandbocks")  # noqa: B009 - likewise
    with pytest.raises(AttributeError, match=r"module 'boxflow\.ports' has no attribute 'Sandbocks'"):
        getattr(boxflow.ports, "Sandbocks")  # noqa: B009 - likewise


def test_the_layers_hold(need: Callable[[str, bool], None]) -> None:
    need("import-linter", find_spec("importlinter") is not None)
    program = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
    found = run(sys.executable, "-c", program)
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_pure_part_asks_for_no_time_and_no_ids() -> None:
    pure = next(contract for name, contract in LAYERS_FORBID.items() if name.startswith("The pure part"))
    for module in pure["source_modules"]:
        path = ROOT / (module.replace(".", "/") + ".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                assert node.func.attr not in {"now", "utcnow", "today", "uuid1", "uuid4"}, (
                    f"{named(path)}:{node.lineno}"
                )


def test_the_version_is_the_same_everywhere() -> None:
    assert boxflow.__version__ == PROJECT["project"]["version"]


def test_the_public_names_are_sorted_and_there() -> None:
    assert list(boxflow.__all__) == sorted(boxflow.__all__)
    assert [name for name in boxflow.__all__ if not hasattr(boxflow, name)] == []


def test_everything_public_is_documented() -> None:
    missing: list[str] = []
    for name in boxflow.__all__:
        thing: Any = getattr(boxflow, name)
        if not inspect.isclass(thing) and not inspect.isfunction(thing):
            continue
        if not inspect.getdoc(thing):
            missing.append(name)
        for method, value in vars(thing).items() if inspect.isclass(thing) else ():
            plain = getattr(value, "__func__", value)
            public = not method.startswith("_") and (inspect.isfunction(plain) or isinstance(plain, property))
            if public and not inspect.getdoc(plain):
                missing.append(f"{name}.{method}")
    assert missing == []


def test_every_entry_point_leads_to_a_class_or_is_the_plugin_of_pytest() -> None:
    for group, targets in PROJECT["project"]["entry-points"].items():
        for target in targets.values():
            module, _, name = target.partition(":")
            found = importlib.import_module(module)
            assert hasattr(found, "boxflow") if group == "pytest11" else isinstance(getattr(found, name), type), target


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_every_module_says_which_question_it_answers(path: Path) -> None:
    source = path.read_text()
    if source.strip():
        assert ast.get_docstring(ast.parse(source)), f"{named(path)} has no docstring"


def comments(path: Path) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


# "# type: ignore[code]  # reason", the same for noqa and pyright; a second directive on the line is not a reason.
DIRECTIVE = re.compile(r"# (?:type: ignore|noqa|pyright: ignore)(\[[\w, -]+\]|: [A-Z]+\d+(?:, ?[A-Z]+\d+)*)?")


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_every_exception_to_a_check_names_it_and_says_why(path: Path) -> None:
    for line, comment in comments(path):
        directives = list(DIRECTIVE.finditer(comment))
        if directives:
            assert all(one.group(1) for one in directives), f"{named(path)}:{line} ignores everything"
            assert comment[directives[-1].end() :].strip(" #"), f"{named(path)}:{line} gives no reason"


SCRIPTS = ["scripts/bench", "scripts/check", "scripts/demo", "scripts/test", ".ci/run", ".ci/dockerd", ".ci/agents"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_can_be_run(name: str) -> None:
    script = ROOT / name
    assert os.access(script, os.X_OK)
    assert run("bash", "-n", str(script)).returncode == 0
