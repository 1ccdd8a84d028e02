"""One stream, as one reader of a consumer group sees it.

Redis keeps, for each entry that was given to a reader and is not acknowledged, the name of the
reader: the pending entries. https://redis.io/docs/latest/develop/data-types/streams/
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from django_broadcaster.backends.redis.commands import packed

from .entries import Entry, place_of

logger = logging.getLogger(__name__)

Ask = Callable[..., list[Any]]
"""Sends commands for a stream and returns their replies; raises the error of a reply."""

FORGOTTEN_SECONDS: Final = 3600
"""Names of readers without pending entries are deleted after this time without a command."""

_PAGE: Final = 10_000

_FORGET: Final = """
local forgotten = 0
for _, reader in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local known = {}
  for i = 1, #reader, 2 do known[reader[i]] = reader[i + 1] end
  if known['pending'] == 0 and (known['name'] == ARGV[2] or known['idle'] > tonumber(ARGV[3])) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], known['name'])
    forgotten = forgotten + 1
  end
end
return forgotten
"""
"""Deletes readers in one step: one that has just been given an entry keeps it.

Redis deletes the pending entries of a reader together with it.
"""


class StreamGroup:
    """A stream and the group that reads it.

    Args:
        stream: The stream.
        group: The group.
        name: The name of this reader.
        idle: Seconds after which another reader's entries are claimed; 0 claims them at once.
        ask: Sends commands.
    """

    def __init__(self, stream: str, group: str, name: str, idle: float, ask: Ask) -> None:
        self.stream = stream
        self.group = group
        self._name = name
        self._idle = int(idle * 1000)
        self._ask = ask
        self._held: list[Entry] = []
        self._has_more = True

    def __len__(self) -> int:
        return len(self._held)

    def forget(self) -> None:
        """Delete the names of readers that are gone, and this one's if nothing is pending."""
        words = (1, *self._where, self._name, FORGOTTEN_SECONDS * 1000)
        self._ask(self.stream, packed("EVAL", _FORGET, *words))

    def let_go(self) -> None:
        """Let other readers claim at once what this one holds."""
        page = packed("XPENDING", *self._where, "-", "+", _PAGE, self._name)
        (pending,) = self._ask(self.stream, page)
        if pending:
            ids = [entry[0] for entry in pending]
            self._ask(self.stream, self.refresh(ids, "IDLE", self._idle))

    # --- Entries of other readers ------------------------------------------------------------

    def look_for_others(self) -> None:
        """Claim what other readers hold, before `take` returns anything newer."""
        self._has_more = True

    def others(self, summary: list[Any]) -> list[bytes]:
        """Return the names of other readers that hold entries, by a reply to XPENDING."""
        own = self._name.encode()
        return [name for name, _ in summary[3] or () if name != own]

    def hold(self, entries: Sequence[Entry]) -> None:
        """Keep new entries until what other readers hold was claimed."""
        self._held += entries

    @property
    def has_older(self) -> bool:
        """Whether `take` may return entries, which come before any new one."""
        return self._has_more or bool(self._held)

    def take(self, limit: int) -> list[Entry]:
        """Return up to `limit` entries that were claimed or held, in the order of the stream."""
        ready = len(self._held)
        if self._has_more:
            claimed, self._has_more = self._claim(limit)
            last = claimed[-1].place if claimed else (0, 0)
            self._held = sorted([*self._held, *claimed], key=lambda entry: entry.place)
            ready = len(self._held)
            if self._has_more:  # what is held may be newer than what is still to be claimed
                ready = sum(entry.place <= last for entry in self._held)
        taken = self._held[: min(limit, ready)]
        del self._held[: len(taken)]
        return taken

    def _claim(self, limit: int) -> tuple[list[Entry], bool]:
        """Claim the first entries that others hold; return them, and whether there may be more."""
        (summary,) = self._ask(self.stream, self.summary)
        others = self.others(summary)
        if not others:
            return [], False
        idle = ("IDLE", self._idle) if self._idle else ()
        pages = self._ask(
            self.stream,
            *(packed("XPENDING", *self._where, *idle, "-", "+", limit, other) for other in others),
        )
        full = [page[-1][0] for page in pages if len(page) == limit]
        known = sorted((entry[0] for page in pages for entry in page), key=place_of)
        if full:  # a reader may hold more after its page
            end = min(map(place_of, full))
            known = [each for each in known if place_of(each) <= end]
        ids = known[:limit]
        if not ids:
            return [], False
        claim = packed("XCLAIM", *self._where, self._name, self._idle, *ids)
        (reply,) = self._ask(self.stream, claim)
        claimed = [Entry(self.stream, *each) for each in reply if each and each[1] is not None]
        self._give_up({*ids} - {entry.id for entry in claimed})
        return claimed, bool(full) or len(known) > limit

    def _give_up(self, ids: set[bytes]) -> None:
        """Acknowledge what could not be claimed because the stream does not have it any more.

        An entry that another reader has claimed or acknowledged just now is left to that one.
        """
        if not ids:
            return
        kept = self._ask(self.stream, *(packed("XRANGE", self.stream, each, each) for each in ids))
        lost = [each for each, found in zip(ids, kept, strict=True) if not found]
        if lost:
            self._ask(self.stream, packed("XACK", *self._where, *lost))
            logger.warning(
                "%d entries of stream %r were trimmed before they were received; skipping them.",
                len(lost),
                self.stream,
            )

    # --- Commands ----------------------------------------------------------------------------

    @property
    def _where(self) -> tuple[str, str]:
        return self.stream, self.group

    def creation(self, start: str) -> bytes:
        """Return the command that creates the group, and the stream if it is missing."""
        return packed("XGROUP", "CREATE", *self._where, start, "MKSTREAM")

    @property
    def summary(self) -> bytes:
        """The command that asks which readers hold how many entries."""
        return packed("XPENDING", *self._where)

    def acknowledgement(self, ids: Sequence[bytes]) -> bytes:
        """Return the command that acknowledges entries."""
        return packed("XACK", *self._where, *ids)

    def refresh(self, ids: Sequence[bytes], *idle: str | int) -> bytes:
        """Return the command that claims entries for this reader again."""
        return packed("XCLAIM", *self._where, self._name, 0, *ids, *idle, "JUSTID")
