"""Encrypted payloads of a batch, decrypted before it is sent.

If a payload cannot be decrypted, a key is missing in the settings of this process. The event must
neither be sent without its data nor be given up. It waits without spending a retry, and the later
events of its partition key wait, too. All other events are sent: if the whole backend waited, one
damaged event would stop it.
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

RETRY_AFTER_SECONDS = 30.0
"""How long such an event waits. Each attempt stores a row.

A relay must be restarted for other keys, so a shorter wait would gain little.
"""


class NotDecryptable(TransientError):
    """The relay cannot decrypt this event, or the result of this task.

    Its text is about settings, so it may be logged.
    """

    def __init__(self, why: Exception) -> None:
        super().__init__(str(why), retry_after=RETRY_AFTER_SECONDS, spends_retry=False)


def decrypted(
    batch: Sequence[PendingRow],
) -> tuple[Sequence[PendingRow], dict[int, DeliveryError]]:
    """Return the rows with their data decrypted, and by id the errors of the others."""
    if all(row.sealed is None for row in batch):
        return batch, {}
    ready: list[PendingRow] = []
    failed: dict[int, DeliveryError] = {}
    failed_keys: set[str] = set()
    for row in batch:
        if row.partition_key in failed_keys:
            failed[row.id] = Held("an earlier event of its key can't be decrypted")
            continue
        try:
            ready.append(_decrypted(row))
        except (CannotUnseal, BackendConfigurationError) as error:
            failed[row.id] = NotDecryptable(error)
            if row.partition_key:
                failed_keys.add(row.partition_key)
    return ready, failed


def _decrypted(row: PendingRow) -> PendingRow:
    if row.sealed is None:
        return row
    data, data_binary = unseal(row.sealed)
    return row._replace(data=data, data_binary=data_binary, sealed=None)
