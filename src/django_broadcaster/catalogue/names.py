"""The names of components and files in the catalogue, which AsyncAPI limits to a few characters."""

from __future__ import annotations

import re
from urllib.parse import quote

from .errors import CatalogueError

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]")


def schema_name(text: str) -> str:
    """Return a text as a name; `Names` finds different texts that have the same one."""
    return _NOT_IN_NAMES.sub(lambda found: quote(found[0], safe="").replace("%", "-"), text)


class Names:
    """The names of one kind, such as those of all messages, each with its only owner.

    Args:
        ignore_case: Whether names that differ only in case are the same, as on some file systems.
    """

    def __init__(self, *, ignore_case: bool = False) -> None:
        self._ignore_case = ignore_case
        self._owners: dict[str, str] = {}

    def add(self, text: str, owner: str) -> str:
        """Return the name of a text; raises CatalogueError if something else has that name.

        Args:
            text: The text.
            owner: What the name is for, such as `event 'order.placed'`.
        """
        name = schema_name(text)
        first = self._owners.setdefault(name.casefold() if self._ignore_case else name, owner)
        if first != owner:
            raise CatalogueError(
                f"{first} and {owner} must not have the same name in the catalogue, {name!r}; "
                "rename one of them"
            )
        return name
