"""Archives, which store events before they are purged.

`base` is the contract of an archive, and `handler` creates the archive of OUTBOX_ARCHIVE. `removal`
archives and deletes old events. `file` and `table` are this package's archives, and `read_archive`
reads a file.
"""

from .base import Archive, Leaving
from .file import FileArchive, as_line
from .handler import ENTRY_KEYS, create_archive
from .reading import Archived, read_archive
from .removal import Stored, remove, store_first, take_out
from .table import TableArchive

__all__ = [
    "ENTRY_KEYS",
    "Archive",
    "Archived",
    "FileArchive",
    "Leaving",
    "Stored",
    "TableArchive",
    "as_line",
    "create_archive",
    "read_archive",
    "remove",
    "store_first",
    "take_out",
]
