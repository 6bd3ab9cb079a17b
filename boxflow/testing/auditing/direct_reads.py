"""Which lines of a body read the world: clocks, randomness, the environment, files?

Watched with a profile function, which sees calls of C functions too, under whatever name they were imported. Only
what user code calls counts: a logger that reads the time to stamp its lines is no input of the body.
"""

from __future__ import annotations

import builtins
import io
import os
import random
import site
import sys
import sysconfig
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from types import BuiltinFunctionType, FrameType, FunctionType
from typing import Any, Final, cast

import attrs

import boxflow

_TIME = "use `ctx.now()`"
_RANDOM = "use `ctx.random`"
_UUID = "use `ctx.uuid4()`"
_ENVIRONMENT = "pass it in the payload, or read it in a step"
_STEP = "put it in a step: `await ctx.run(...)`"

_C_FUNCTIONS: Final[dict[object, tuple[str, str]]] = {
    **{
        getattr(time, name): (f"time.{name}()", _TIME)
        for name in (
            *("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"),
            *("process_time", "thread_time"),
        )
    },
    os.urandom: ("os.urandom()", _RANDOM),
    os.getpid: ("os.getpid()", _ENVIRONMENT),
    os.listdir: ("os.listdir()", _STEP),
    os.scandir: ("os.scandir()", _STEP),
    os.getcwd: ("os.getcwd()", _ENVIRONMENT),
    io.open: ("open()", _STEP),
    builtins.input: ("input()", _STEP),
}

_METHODS: Final = frozenset({"now", "utcnow", "today"})
"""Those of `datetime` and `date`."""

_PRIVATE: Any = random
_GLOBAL_RANDOM: Final[object] = _PRIVATE._inst  # noqa: SLF001 - whose methods `random.random` and the others are
_ENVIRON: Final = frozenset(
    cast(FunctionType, getattr(type(os.environ), name)).__code__ for name in ("__getitem__", "__iter__", "copy")
)
_SEED: Final = cast(FunctionType, random.Random.seed).__code__

_PASSED_ON: Final = frozenset(
    {
        "uuid",
        "random",
        "secrets",
        "os",
        "_collections_abc",
        "collections.abc",
        "datetime",
        "_pydatetime",
        "pathlib",
        "io",
        "tempfile",
    }
    | {"pathlib._local", "pathlib._abc", "shutil", "glob"}
)
"""Modules that read on behalf of who calls them."""

_UNSEEDED: Final = "random.Random() without a seed"

_LIBRARIES: Final = tuple(
    f"{Path(directory).resolve()}{os.sep}"
    for directory in {
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("platstdlib"),
        *site.getsitepackages(),
        site.getusersitepackages(),
        str(Path(boxflow.__file__).parent),
    }
)


@attrs.frozen(kw_only=True)
class DirectRead:
    """One line of user code that reads the world.

    :param what: the call, as people write it
    :param where: `file:line in function`
    :param remedy: what to write instead
    """

    what: str
    where: str
    remedy: str

    def __str__(self) -> str:
        return f"it reads {self.what} at {self.where}; {self.remedy}"


class Watch:
    """What was read, in the order of the first time.

    :param package: the top package of the workflow: user code also where it is installed among libraries
    """

    def __init__(self, package: str) -> None:
        self.found: dict[DirectRead, None] = {}
        self._package = package
        self._own_files: dict[str, bool] = {}

    @contextmanager
    def watching(self) -> Generator[None]:
        """Watch this thread inside the block; nothing is seen where another profile function is at work."""
        if sys.getprofile() is not None:
            yield
            return
        sys.setprofile(cast("Callable[[FrameType, str, object], None]", self._event))
        try:
            yield
        finally:
            sys.setprofile(None)

    def _event(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call":
            self._called_c(frame, argument)
        elif event == "call":
            code = frame.f_code
            if code in _ENVIRON:
                self._read(frame, "os.environ", _ENVIRONMENT)
            elif code is _SEED and frame.f_locals.get("a") is None:
                self._read(frame, _UNSEEDED, _RANDOM)

    def _called_c(self, frame: FrameType, function: BuiltinFunctionType) -> None:
        try:
            known = _C_FUNCTIONS.get(function)
        except TypeError:  # A method of something that does not hash.
            return
        if known is not None:
            self._read(frame, *known)
            return
        owner = getattr(function, "__self__", None)
        if owner is _GLOBAL_RANDOM:
            self._read(frame, f"random.{function.__name__}()", _RANDOM)
        elif isinstance(owner, type) and function.__name__ in _METHODS and issubclass(owner, date):
            self._read(frame, f"{owner.__name__}.{function.__name__}()", _TIME)

    def _read(self, frame: FrameType | None, what: str, remedy: str) -> None:
        while frame is not None and (name := str(frame.f_globals.get("__name__", ""))) in _PASSED_ON:
            if name in {"uuid", "random", "secrets"} and what != _UNSEEDED:
                what = f"{name}.{frame.f_code.co_name}()"
                remedy = _UUID if name == "uuid" else _RANDOM
            frame = frame.f_back
        if frame is None or not self._is_own(frame):
            return
        code = frame.f_code
        where = f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}"
        self.found.setdefault(DirectRead(what=what, where=where, remedy=remedy))

    def _is_own(self, frame: FrameType) -> bool:
        name = str(frame.f_globals.get("__name__", ""))
        if name.partition(".")[0] == self._package:
            return True
        file = frame.f_code.co_filename
        known = self._own_files.get(file)
        if known is None:
            known = self._own_files[file] = not str(Path(file).resolve()).startswith(_LIBRARIES)
        return known
