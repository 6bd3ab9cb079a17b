"""The store keeps every promise of a store, and workflows run on it."""

from pathlib import Path

import pytest

from boxflow import Context, workflow
from boxflow.errors import StoreLockedError
from boxflow.ports import Store
from boxflow.testing import StoreContract, World
from examples.own_backend.sqlite_store import SqliteStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class TestSqliteStore(StoreContract):
    durable = True
    path: Path
    made = 0

    @pytest.fixture(autouse=True)
    def fresh_directory(self, tmp_path: Path) -> None:
        self.path = tmp_path

    def make_store(self) -> Store:
        self.made += 1
        return SqliteStore(self.path / f"{self.made}.db", synchronous="OFF")

    def make_again(self, store: Store) -> Store:
        assert isinstance(store, SqliteStore)
        return SqliteStore(store.path, synchronous="OFF")


@workflow
async def remind(ctx: Context, name: str) -> str:
    await ctx.sleep("patience", "3d")
    return await ctx.run("greet", str.upper, name)


async def test_a_file_has_one_owner(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path / "state.db"):
        with pytest.raises(StoreLockedError, match=r"state\.db"):
            async with SqliteStore(tmp_path / "state.db"):
                pass


async def test_a_run_goes_on_where_the_process_before_it_was(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with World(store=SqliteStore(path), jumps=False) as world:
        await world.start(remind, "ada")
        await world.advance("1d")
        now = world.now
    async with World([remind], store=SqliteStore(path), start=now) as world:
        run = await world.engine.get("remind-1")
        assert await run.result() == "ADA"
        assert (world.now - now).days == 2
