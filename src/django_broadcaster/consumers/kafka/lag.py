"""The lag of a consumer group: the records that are not committed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

from .offsets import place
from .settings import METADATA_SECONDS

_END_OFFSET: Final = -1
_FIRST_OFFSET: Final = -2


class Lag:
    """Asks the brokers for the lag of all partitions of a group, also those of other members.

    Args:
        names: The names of the topics.
        patterns: The patterns of further topics.
        from_the_first: Whether a group without a committed offset begins at the first record.
        timeout: Seconds to wait for each answer.
        failure: Returns the exception for an error of librdkafka's.
    """

    def __init__(
        self,
        names: Collection[str],
        patterns: Collection[re.Pattern[str]],
        *,
        from_the_first: bool,
        timeout: float,
        failure: Callable[[Any], Exception],
    ) -> None:
        self._names = names
        self._patterns = patterns
        self._from_the_first = from_the_first
        self._timeout = timeout
        self._failure = failure
        self._known: list[tuple[str, int]] = []
        self._known_until = 0.0

    def forget(self) -> None:
        """Ask for the topics and partitions again."""
        self._known_until = 0.0

    def ask(self, client: Any) -> int:
        """Return the number of records that are not committed; raises errors of the client."""
        places = [place(*each) for each in self._all_partitions(client)]
        committed = client.committed(places, timeout=self._timeout) if places else []
        self._check(committed)
        fresh = [(each.topic, each.partition) for each in committed if each.offset < 0]
        firsts = self._offsets(client, fresh, _FIRST_OFFSET) if self._from_the_first else {}
        every = [(each.topic, each.partition) for each in places]
        ends = self._offsets(client, every, _END_OFFSET)
        lag = 0
        for each in committed:
            key = (each.topic, each.partition)
            begin = each.offset if each.offset >= 0 else firsts.get(key, ends[key])
            lag += max(0, ends[key] - begin)
        return lag

    def _all_partitions(self, client: Any) -> list[tuple[str, int]]:
        """Return the partitions of all topics of the group, by topic and number."""
        now = time.monotonic()
        if now >= self._known_until:
            found = client.list_topics(timeout=self._timeout).topics
            self._known = [
                (name, number)
                for name, topic in found.items()
                if name in self._names or any(each.match(name) for each in self._patterns)
                for number in topic.partitions
            ]
            self._known_until = now + METADATA_SECONDS
        return self._known

    def _offsets(
        self, client: Any, keys: Sequence[tuple[str, int]], which: int
    ) -> dict[tuple[str, int], int]:
        """Return the first offset, or the one after the last record, of each partition."""
        if not keys:
            return {}
        places = [place(*key, which) for key in keys]
        found = client.offsets_for_times(places, timeout=self._timeout)
        self._check(found)
        return {(each.topic, each.partition): each.offset for each in found}

    def _check(self, places: Iterable[Any]) -> None:
        """Raise the failure if the answer for a partition is an error."""
        for each in places:
            if each.error is not None:
                raise self._failure(each.error)
