"""Where events go before they are purged.

`base` is the contract: all that is needed to write one. `handler` makes the one of OUTBOX_ARCHIVE,
`removal` is the only way out of the outbox for events that are kept until they are old, and `file`
and `table` are the two that come with the package. `read_archive` reads a file back.
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
