"""A disk in memory that can lose power: it keeps apart what was written and what was made durable.

The model is as unkind as the documents allow. What a file was given since its last sync may survive in any part: every
write whole, torn at any byte, missing (with zeros where a later write survived behind it). A name made, changed or
removed since the last sync of its directory may or may not be so, each on its own. A sync that fails takes the data for
clean: no later sync makes it durable (as Linux does).
"""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import attrs

Loss: TypeAlias = Literal["all", "nothing", "last write torn", "random"]


@attrs.define
class _File:
    content: bytearray = attrs.field(factory=bytearray)
    durable: bytearray = attrs.field(factory=bytearray)
    pending: list[tuple[int, bytes]] = attrs.field(factory=list[tuple[int, bytes]])


# One change to a directory: the names it sets, and the names it removes.
_Names: TypeAlias = dict[str, "_File | _Directory | None"]


@attrs.define
class _Directory:
    names: dict[str, _File | _Directory] = attrs.field(factory=dict[str, "_File | _Directory"])
    durable: dict[str, _File | _Directory] = attrs.field(factory=dict[str, "_File | _Directory"])
    pending: list[_Names] = attrs.field(factory=list[_Names])

    def change(self, names: _Names) -> None:
        _apply(self.names, names)
        self.pending.append(names)


class PowerCutError(OSError):
    """The disk has no power any more. For the store an error like others; what was pending may still have survived."""


@attrs.define
class Fault:
    """What happens at call number *at*: an error, or a write that takes only half."""

    at: int
    code: int | None
    fired: bool = False


class SimulatedDisk:
    """A `Disk` of the file store, with one directory `/disk` to begin with.

    :param cut_after: lose power after so many changing calls
    """

    def __init__(self, *, cut_after: int | None = None, fault: Fault | None = None) -> None:
        disk = _Directory()
        self._root = _Directory(names={"disk": disk}, durable={"disk": disk})
        self._open: dict[int, _File] = {}
        self._last = 0
        self._lock = threading.Lock()
        self._cut_after = cut_after
        self._fault = fault
        self.calls = 0

    # --- what the store calls ------------------------------------------------------------------------------------

    def own(self, root: Path) -> Callable[[], None]:
        return lambda: None

    def is_directory(self, path: Path) -> bool:
        with self._lock:
            return isinstance(self._find(path), _Directory)

    def make_directory(self, path: Path) -> None:
        with self._changing():
            folder = self._folder(path)
            if path.name not in folder.names:
                folder.change({path.name: _Directory()})

    def list_directory(self, path: Path) -> Sequence[str]:
        with self._lock:
            return list(self._directory(path).names)

    def sync_directory(self, path: Path) -> None:
        with self._changing():
            folder = self._directory(path)
            for names in folder.pending:
                _apply(folder.durable, names)
            folder.pending.clear()

    def remove_directory(self, path: Path) -> None:
        with self._changing():
            if self._directory(path).names:
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))
            self._folder(path).change({path.name: None})

    def create(self, path: Path) -> int:
        with self._changing():
            folder = self._folder(path)
            if path.name in folder.names:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            file = _File()
            folder.change({path.name: file})
            return self._opened(file)

    def open(self, path: Path) -> int:
        with self._lock:
            return self._opened(self._file(path))

    def write(self, file: int, data: bytes | memoryview) -> int:
        with self._changing(is_write=True) as takes_half:
            taken = bytes(data)
            if takes_half:
                taken = taken[: len(taken) // 2]
            opened = self._open[file]
            opened.pending.append((len(opened.content), taken))
            opened.content += taken
            return len(taken)

    def read(self, file: int, size: int, offset: int) -> bytes:
        with self._lock:
            return bytes(self._open[file].content[offset : offset + size])

    def sync(self, file: int) -> None:
        opened = self._open[file]
        try:
            with self._changing():
                for offset, data in opened.pending:
                    _write(opened.durable, offset, data)
                opened.pending.clear()
        except PowerCutError:
            raise
        except OSError:
            opened.pending.clear()
            raise

    def close(self, file: int) -> None:
        with self._lock:
            del self._open[file]

    def size(self, path: Path) -> int:
        with self._lock:
            return len(self._file(path).content)

    def rename(self, old: Path, new: Path) -> None:
        assert old.parent == new.parent, "the store renames within a directory"
        with self._changing():
            file = self._file(old)
            self._folder(old).change({old.name: None, new.name: file})

    def unlink(self, path: Path) -> None:
        with self._changing():
            self._file(path)
            self._folder(path).change({path.name: None})

    def map(self, path: Path) -> memoryview:
        with self._lock:
            return memoryview(bytes(self._file(path).content))

    # --- what tests call -----------------------------------------------------------------------------------------

    def after_power_loss(self, loss: Loss, seed: int = 0) -> SimulatedDisk:
        """The disk that the next process finds, when of what was not synced so much is lost."""
        with self._lock:
            chance = random.Random(seed)
            disk = SimulatedDisk()
            disk._root = _survivor(self._root, loss, chance, {})
            return disk

    def after_process_death(self) -> SimulatedDisk:
        """The disk that the next process finds when only the process ended: everything written is there.

        What is not durable stays so: losing power later can still lose it.
        """
        with self._lock:
            disk = SimulatedDisk()
            disk._root = self._root
            return disk

    def cut_after(self, calls: int) -> None:
        """Lose power after so many changing calls from now."""
        self._cut_after = self.calls + calls

    def fail_next(self, code: int) -> None:
        """Have the next changing call fail."""
        self._fault = Fault(self.calls + 1, code)

    def content(self, path: Path) -> bytearray:
        """The bytes of a file, to be damaged."""
        return self._file(path).content

    # --- inside --------------------------------------------------------------------------------------------------

    def _changing(self, *, is_write: bool = False) -> _Call:
        return _Call(self, is_write=is_write)

    def enter(self, *, is_write: bool) -> bool:
        """Begin a changing call; whether it is to take only half."""
        self._lock.acquire()
        if self._cut_after is not None and self.calls >= self._cut_after:
            self._lock.release()
            raise PowerCutError(errno.EIO, "the power is cut")
        self.calls += 1
        fault = self._fault
        if fault is None or fault.fired or self.calls != fault.at:
            return False
        if fault.code is None:
            fault.fired = True
            return is_write
        fault.fired = True
        self._lock.release()
        raise OSError(fault.code, os.strerror(fault.code))

    def leave(self) -> None:
        """End a changing call."""
        self._lock.release()

    def _opened(self, file: _File) -> int:
        self._last += 1
        self._open[self._last] = file
        return self._last

    def _find(self, path: Path) -> _File | _Directory | None:
        found: _File | _Directory | None = self._root
        for name in path.parts[1:]:
            found = found.names.get(name) if isinstance(found, _Directory) else None
        return found

    def _directory(self, path: Path) -> _Directory:
        found = self._find(path)
        if not isinstance(found, _Directory):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return found

    def _folder(self, path: Path) -> _Directory:
        return self._directory(path.parent)

    def _file(self, path: Path) -> _File:
        found = self._find(path)
        if not isinstance(found, _File):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return found


class _Call:
    def __init__(self, disk: SimulatedDisk, *, is_write: bool) -> None:
        self._disk = disk
        self._is_write = is_write

    def __enter__(self) -> bool:
        return self._disk.enter(is_write=self._is_write)

    def __exit__(self, *_: object) -> None:
        self._disk.leave()


def _apply(names: dict[str, _File | _Directory], change: _Names) -> None:
    for name, what in change.items():
        if what is None:
            names.pop(name, None)
        else:
            names[name] = what


def _write(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _survivor(folder: _Directory, loss: Loss, chance: random.Random, known: dict[int, _File]) -> _Directory:
    names = dict(folder.durable)
    for change in folder.pending:
        if loss in ("nothing", "last write torn") or (loss == "random" and chance.random() < 0.5):
            _apply(names, change)
    survivors: dict[str, _File | _Directory] = {}
    for name, what in names.items():
        if isinstance(what, _Directory):
            survivors[name] = _survivor(what, loss, chance, known)
        else:
            if id(what) not in known:
                known[id(what)] = _surviving(what, loss, chance)
            survivors[name] = known[id(what)]
    return _Directory(names=survivors, durable=dict(survivors))


def _surviving(file: _File, loss: Loss, chance: random.Random) -> _File:
    content = bytearray(file.durable)
    for number, (offset, data) in enumerate(file.pending):
        is_last = number == len(file.pending) - 1
        match loss:
            case "all":
                continue
            case "nothing":
                _write(content, offset, data)
            case "last write torn":
                _write(content, offset, data[: len(data) // 2] if is_last else data)
            case "random":
                _write_randomly(content, offset, data, chance)
    return _File(content=content, durable=bytearray(content))


def _write_randomly(content: bytearray, offset: int, data: bytes, chance: random.Random) -> None:
    """A write survives whole, as a beginning, as blocks of which some are missing, or not at all."""
    match chance.randrange(4):
        case 0:
            _write(content, offset, data)
        case 1:
            _write(content, offset, data[: chance.randrange(len(data) + 1)])
        case 2:
            for begin in range(0, len(data), 64):
                if chance.random() < 0.6:
                    _write(content, offset + begin, data[begin : begin + 64])
        case _:
            return
