"""Stores and sandboxes are named by URLs, and a wrong one is told with what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxflow.boxes import Boxes
from boxflow.errors import ConfigurationError
from boxflow.plugins import resolve_sandbox, resolve_store
from boxflow_backends.local_sandbox import LocalSandbox


def test_an_instance_stands_for_itself(tmp_path: Path) -> None:
    sandbox = LocalSandbox(tmp_path)
    assert resolve_sandbox(sandbox) is sandbox


def test_a_url_makes_a_sandbox_at_its_path(tmp_path: Path) -> None:
    assert repr(Boxes(f"local:{tmp_path}").sandbox) == f"LocalSandbox({str(tmp_path)!r})"
    assert repr(Boxes(f"local://{tmp_path}").sandbox) == f"LocalSandbox({str(tmp_path)!r})"


def test_the_default_place_is_the_user_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert repr(Boxes("local:").sandbox) == f"LocalSandbox({str(tmp_path / 'boxflow' / 'boxes')!r})"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(tmp_path / ".local" / "state" / "boxflow" / "boxes") in repr(Boxes("local:").sandbox)


def test_an_unknown_scheme_is_told_with_those_that_are_known() -> None:
    with pytest.raises(ConfigurationError, match=r'no known scheme; known are .*"file:".*"memory:"'):
        resolve_store("postgres://x")
    with pytest.raises(ConfigurationError, match=r"'boxflow\.sandboxes'; or pass an instance"):
        resolve_sandbox("cloud:")


def test_a_missing_colon_is_told() -> None:
    with pytest.raises(ConfigurationError, match='write "memory:"'):
        resolve_store("memory")


def test_a_class_in_place_of_an_instance_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"pass an instance, LocalSandbox\(\.\.\.\)"):
        resolve_sandbox(LocalSandbox)  # type: ignore[arg-type] # the mistake this test is about
