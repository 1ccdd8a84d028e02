"""The meaning of JetStream's errors for an event.

https://github.com/nats-io/nats-server/blob/main/server/errors.json
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..errors import ErrorTable, Scope

ERRORS: Final = ErrorTable({
    Scope.BROKER: {10002, 10109},  # the account is at its limit, the stream is sealed
    Scope.EVENT: {10054, 10097},  # the message, or its headers, are too large
})  # fmt: skip

OTHER_STREAM: Final = 10060
"""The code of a message whose subject is that of another stream."""

_BROKER_STATUS: Final = frozenset({429, 500, 503})  # too fast, broken, full or without a leader


def scope_of(error: Mapping[str, Any]) -> Scope:
    """Return what an error in the answer to a message is about."""
    if "per subject" in str(error.get("description")):
        return Scope.DESTINATION
    found = ERRORS.scope(error.get("err_code", 0))
    is_broker = found is Scope.ATTEMPT and error.get("code") in _BROKER_STATUS
    return Scope.BROKER if is_broker else found
