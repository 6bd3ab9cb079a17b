"""How many syncs do appends cost? Those of one turn of the event loop cost one."""

from __future__ import annotations

import asyncio
from pathlib import Path

from boxflow.model import Change, Item, Put, Value
from boxflow_backends.file_store import FileStore
from boxflow_backends.file_store.disk import RealDisk


class CountingDisk(RealDisk):
    syncs = 0

    def sync(self, file: int) -> None:
        self.syncs += 1
        super().sync(file)


def change(key: int) -> list[Change]:
    return [Put(Item(collection="c", key=f"k{key}", value=Value(b"1")))]


async def busy(store: FileStore, key: int) -> None:
    # Together longer than the interpreter lets one thread have its way.
    sum(range(40_000))
    await store.change_items(change(key))


async def test_what_one_turn_of_the_loop_writes_shares_a_sync(tmp_path: Path) -> None:
    disk = CountingDisk()
    async with FileStore(tmp_path, disk=disk) as store:
        await store.change_items(change(0))
        before = disk.syncs
        for _ in range(5):
            await asyncio.gather(*(busy(store, key) for key in range(40)))
        assert disk.syncs - before == 5


def test_a_loop_that_stopped_before_it_woke_the_writer_holds_up_no_other(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def left() -> None:
        pending = asyncio.ensure_future(store.change_items(change(1)))
        await asyncio.sleep(0)
        first.stop()
        await pending

    async def kept() -> None:
        async with asyncio.timeout(30):
            await store.change_items(change(2))
            assert await store.get_item("c", "k1") is not None
            assert await store.get_item("c", "k2") is not None
            await store.__aexit__(None, None, None)

    first.run_until_complete(store.__aenter__())
    abandoned = first.create_task(left())
    try:
        first.run_forever()
    finally:
        second.run_until_complete(kept())
        second.close()
        abandoned.cancel()
        first.run_until_complete(asyncio.gather(abandoned, return_exceptions=True))
        first.close()
