"""Every Python block of the README and of docs/ runs: each page in one namespace, in a directory of its own.

A block that cannot stand alone has an HTML comment above it, which says why:

    <!-- fragment: shows one line of a larger body -->
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "backends" / "README.md", *(ROOT / "docs").glob("**/*.md")])
BLOCK = re.compile(r"(?P<before>[^\n]*)\n+```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
FRAGMENT = re.compile(r"<!-- fragment: \S.*-->")
LINK = re.compile(r"\]\((?P<target>[^)#:]+)(?:#[^)]*)?\)")


def blocks(page: Path) -> list[str]:
    """The page's programs, each with empty lines before it, so that errors name its line in the page."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        code = "\n" * text.count("\n", 0, match.start("code")) + match["code"]
        if FRAGMENT.fullmatch(match["before"].strip()):
            compile(f"async def fragment():\n{_indented(match['code'])}", page.name, "exec")
        else:
            found.append(code)
    return found


def _indented(code: str) -> str:
    return "".join(f"    {line}\n" for line in code.splitlines()) or "    pass\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_the_page_runs(page: Path, tmp_path: Path) -> None:
    if not (programs := blocks(page)):
        return
    runner = "import json, sys\nnamespace = {'__name__': '__main__', '__file__': sys.argv[1]}\n"
    runner += "for code in json.load(sys.stdin):\n    exec(compile(code, sys.argv[1], 'exec'), namespace)\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", runner, str(page)],
        input=json.dumps(programs),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "backends")])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_the_page_leads_somewhere(page: Path) -> None:
    targets = {match["target"] for match in LINK.finditer(page.read_text(encoding="utf-8"))}
    assert [target for target in sorted(targets) if not (page.parent / target).exists()] == []
