"""What does a sandbox promise about snapshots: the files of a box, kept, as often as one likes?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from boxflow.errors import BoxNotFoundError, NotSupportedError, SnapshotNotFoundError
from boxflow.ports import BoxSpec, Capability
from boxflow.testing.sandbox_contract.support import Contract, Subject, made, new_id

_SETUP = """
    echo work > f; mkdir -p d/empty; printf '#!/bin/sh\\necho ran' > d/run; chmod 750 d/run; echo p > d/p; chmod 600 d/p
    ln -s d/run link; ln -s /nowhere dangling; echo h > "$HOME/h"; mkdir "$HOME/.config"
    printf 'new\\nline' > "$(printf 'o\\nd')"
"""
_LOOK = 'cat f; d/run; cat "$HOME/h"; stat -c %a d/run d/p; readlink link dangling; ls d; cat "$(printf "o\\nd")"'
_SEEN = "work\nran\nh\n750\n600\nd/run\n/nowhere\nempty\np\nrun\nnew\nline"


class SnapshotPromises(Contract):
    """A box can be kept as it is, and any number of boxes made from that; or that is refused."""

    @asynccontextmanager
    async def _snapshot(self, subject: Subject) -> AsyncGenerator[str | None, None]:
        """A snapshot's id; None where the sandbox refuses, as it says."""
        snapshot_id = new_id("snapshot")
        if Capability.SNAPSHOT not in subject.sandbox.capabilities:
            with pytest.raises(NotSupportedError):
                await subject.sandbox.snapshot(subject.id, snapshot_id, {})
            with pytest.raises(NotSupportedError):
                await subject.sandbox.create("refused", BoxSpec(snapshot=snapshot_id), {})
            yield None
            return
        try:
            await subject.sandbox.snapshot(subject.id, snapshot_id, {"tag": snapshot_id})
            yield snapshot_id
        finally:
            await subject.sandbox.delete_snapshot(snapshot_id)

    async def test_a_box_made_from_a_snapshot_has_the_files_and_their_permissions(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            await subject.out(_SETUP)
            async with self._snapshot(subject) as snapshot:
                if snapshot is not None:
                    async with made(subject.sandbox, BoxSpec(snapshot=snapshot)) as restored:
                        assert await restored.out(_LOOK) == _SEEN
                        assert await restored.out('echo more >> f; echo more >> "$HOME/h"; echo $BOXFLOW_BOX') == (
                            f"{restored.id}\n"
                        )

    async def test_a_snapshot_outlives_its_box_and_its_sandbox(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            await subject.out("echo kept > f")
            async with self._snapshot(subject) as snapshot:
                await subject.sandbox.delete(subject.id)
                if snapshot is not None:
                    async with self.sandbox(tmp_path) as other, made(other, BoxSpec(snapshot=snapshot)) as restored:
                        assert await restored.out("cat f") == "kept\n"

    async def test_boxes_of_one_snapshot_do_not_touch_each_other_nor_it(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            await subject.out("echo first > f")
            async with self._snapshot(subject) as snapshot:
                if snapshot is None:
                    return
                sandbox, spec = subject.sandbox, BoxSpec(snapshot=snapshot)
                await subject.out("echo changed >> f")
                async with made(sandbox, spec) as one, made(sandbox, spec) as other:
                    await one.out("echo one >> f; echo x > g")
                    assert await other.out("cat f; ls") == "first\nf\n"
                async with made(sandbox, spec) as later:
                    assert await later.out("cat f; ls") == "first\nf\n"

    async def test_a_snapshot_of_a_taken_id_is_the_one_that_has_it(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            await subject.out("echo first > f")
            async with self._snapshot(subject) as snapshot:
                if snapshot is None:
                    return
                await subject.out("echo second > f")
                again = await subject.sandbox.snapshot(subject.id, snapshot, {"tag": "another"})
                assert (again.snapshot_id, again.box_id, again.labels) == (snapshot, subject.id, {"tag": snapshot})
                async with made(subject.sandbox, BoxSpec(snapshot=snapshot)) as restored:
                    assert await restored.out("cat f") == "first\n"

    async def test_of_many_who_make_one_snapshot_all_get_the_same(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject, self._snapshot(subject) as snapshot:
            if snapshot is None:
                return
            second = new_id("snapshot")
            try:
                found = await asyncio.gather(
                    *(subject.sandbox.snapshot(subject.id, second, {"n": str(n)}) for n in range(4))
                )
                assert len({info.labels["n"] for info in found}) == 1
            finally:
                await subject.sandbox.delete_snapshot(second)

    async def test_snapshots_are_listed_by_their_labels_oldest_first(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject, self._snapshot(subject) as snapshot:
            if snapshot is None:
                return
            sandbox, second = subject.sandbox, new_id("snapshot")
            try:
                odd = {"tag": snapshot, "a=b, c": "ü\n{}"}
                await sandbox.snapshot(subject.id, second, odd)
                found = await sandbox.list_snapshots({"tag": snapshot})
                assert [(info.snapshot_id, info.box_id) for info in found] == [
                    (snapshot, subject.id),
                    (second, subject.id),
                ]
                assert [info.labels for info in await sandbox.list_snapshots(odd)] == [odd]
                assert found[0].created_at <= found[1].created_at
            finally:
                await sandbox.delete_snapshot(second)
            assert [info.snapshot_id for info in await sandbox.list_snapshots({"tag": snapshot})] == [snapshot]

    async def test_boxes_are_not_listed_as_snapshots_nor_snapshots_as_boxes(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject, self._snapshot(subject) as snapshot:
            if snapshot is not None:
                assert not await subject.sandbox.list({"tag": snapshot})
                assert not [one for one in await subject.sandbox.list_snapshots({}) if one.snapshot_id == subject.id]

    async def test_a_deleted_snapshot_is_gone_and_the_boxes_made_from_it_stay(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            await subject.out("echo kept > f")
            async with self._snapshot(subject) as snapshot:
                if snapshot is None:
                    return
                sandbox = subject.sandbox
                async with made(sandbox, BoxSpec(snapshot=snapshot)) as restored:
                    await asyncio.gather(sandbox.delete_snapshot(snapshot), sandbox.delete_snapshot(snapshot))
                    await sandbox.delete_snapshot(snapshot)
                    assert await restored.out("cat f") == "kept\n"
                    assert not await sandbox.list_snapshots({"tag": snapshot})
                    with pytest.raises(SnapshotNotFoundError, match=snapshot):
                        await sandbox.create(new_id(), BoxSpec(snapshot=snapshot), {})

    async def test_a_box_of_an_unknown_snapshot_is_not_made(self, tmp_path: Path) -> None:
        async with self.sandbox(tmp_path) as sandbox:
            box_id = new_id()
            supported = Capability.SNAPSHOT in sandbox.capabilities
            with pytest.raises(
                SnapshotNotFoundError if supported else NotSupportedError, match="unknown" if supported else None
            ):
                await sandbox.create(box_id, BoxSpec(snapshot="unknown"), {})
            with pytest.raises(BoxNotFoundError):
                await sandbox.get(box_id)

    async def test_a_snapshot_holds_no_jobs_and_no_variables(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path, BoxSpec(env={"SECRET": "hunter2"})) as subject:
            await subject.out('mkdir "$BOXFLOW_JOBS/j"; echo "$SECRET" > "$BOXFLOW_JOBS/j/out"')
            async with self._snapshot(subject) as snapshot:
                if snapshot is not None:
                    async with made(subject.sandbox, BoxSpec(snapshot=snapshot)) as restored:
                        assert "hunter2" not in await restored.out("env")
                        assert await restored.out('ls -A "$BOXFLOW_JOBS"') == ""

    async def test_a_running_process_goes_on_beside_a_snapshot(self, tmp_path: Path) -> None:
        async with self.subject(tmp_path) as subject:
            process = await subject.spawn("until [ -e go ]; do sleep 0.01; done; echo went")
            async with self._snapshot(subject) as snapshot:
                await subject.sandbox.write_file(subject.id, "go", b"")
                async for _, data in process.read():
                    assert data == b"went\n"
                assert await process.wait() == 0
                if snapshot is not None:
                    async with made(subject.sandbox, BoxSpec(snapshot=snapshot)) as restored:
                        assert await restored.out("ls") == ""
