"""How do files and folders cross the border of a box? As a tar stream, in constant memory.

`pack` and `packed_chunks` write one, `unpack` reads one, and `write_whole` writes a single file; all of them block and
are called in threads. `packed` and `unpack_chunks` do the same for an event loop.

What comes out of a box is hostile, and what goes into one meets hostile processes there. So nothing is read or written
by path: every directory is opened relative to the one above it, and no link is followed on the way.
"""

from boxflow_backends.archives.bridge import packed, unpack_chunks
from boxflow_backends.archives.packing import Source, pack, packed_chunks
from boxflow_backends.archives.reading import Limits, Readable
from boxflow_backends.archives.unpacking import Links, Unpacked, unpack
from boxflow_backends.archives.writing import write_whole

__all__ = [
    "Limits",
    "Links",
    "Readable",
    "Source",
    "Unpacked",
    "pack",
    "packed",
    "packed_chunks",
    "unpack",
    "unpack_chunks",
    "write_whole",
]
