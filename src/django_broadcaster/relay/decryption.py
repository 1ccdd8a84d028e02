"""Encrypted payloads of a batch, decrypted before it is sent.

A payload that can't be decrypted is nobody's fault but the settings': a key is missing in this
process. Such an event must neither be sent without its data nor be given up, so it waits, and its
key behind it, for as long as it takes, without spending a retry. All others go on: that the backend
as a whole waited, as for a broker that is away, would let one event that was damaged stop it.
"""

from __future__ import annotations

from collections.abc import Sequence

from django_broadcaster.encryption import unseal
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    CannotUnseal,
    DeliveryError,
    Held,
    TransientError,
)
from django_broadcaster.store import PendingRow

WAIT_SECONDS = 30.0
"""How long such an event waits: no attempt makes the wait longer, and each leaves a row behind.

A relay has to be started anew for other keys, so a shorter wait would gain little.
"""


class NotDecryptable(TransientError):
    """The relay can't decrypt this event. Its text is ours, about settings: the log may tell it."""

    def __init__(self, why: Exception) -> None:
        super().__init__(str(why), retry_after=WAIT_SECONDS, spends_retry=False)


def decrypted(
    batch: Sequence[PendingRow],
) -> tuple[Sequence[PendingRow], dict[int, DeliveryError]]:
    """Return the rows with their data in the clear, and by id what keeps the others back."""
    if all(row.sealed is None for row in batch):
        return batch, {}
    opened: list[PendingRow] = []
    shut: dict[int, DeliveryError] = {}
    shut_keys: set[str] = set()
    for row in batch:
        if row.partition_key in shut_keys:
            shut[row.id] = Held("an earlier event of its key can't be decrypted")
            continue
        try:
            opened.append(_decrypted(row))
        except (CannotUnseal, BackendConfigurationError) as error:
            shut[row.id] = NotDecryptable(error)
            if row.partition_key:
                shut_keys.add(row.partition_key)
    return opened, shut


def _decrypted(row: PendingRow) -> PendingRow:
    if row.sealed is None:
        return row
    data, data_binary = unseal(row.sealed)
    return row._replace(data=data, data_binary=data_binary, sealed=None)
