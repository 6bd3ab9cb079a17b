"""The file store: durable runs in a directory of JSON lines, for one process on one machine.

| module | question |
| --- | --- |
| `store` | what callers see: the `Store` port |
| `session` | what one opening holds, and when it compacts |
| `state` | what is known in memory, and how a line changes it |
| `log`, `writer` | where the next line goes; the thread that writes and syncs |
| `lines` | the form of a line, its checksum, its place |
| `recovery` | what is on disk when the store is opened |
| `compaction`, `archive` | what becomes of sealed segments; finished runs at rest |
| `reading`, `blobs` | runs and journals from disk; large values |
| `disk`, `ownership` | the system calls; who owns the directory |
"""

from boxflow_backends.file_store.store import FileStore

__all__ = ["FileStore"]
