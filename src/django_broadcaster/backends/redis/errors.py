"""What an error of Redis, or of redis-py, means for events."""

from __future__ import annotations

from typing import Final, NamedTuple

from django_broadcaster.exceptions import (
    BackendUnavailable,
    DeliveryError,
    Rejected,
    TransientError,
)

# Errors that any event would meet: the server is full, read-only, cannot persist, ...
_UNAVAILABLE: Final = frozenset({
    "BUSY", "CLUSTERDOWN", "EXECABORT", "LOADING", "MASTERDOWN", "MISCONF", "NOAUTH", "NOREPLICAS",
    "OOM", "READONLY",
})  # fmt: skip
# Errors about the stream that was asked for: not permitted, or on another node of a cluster.
_MISPLACED: Final = frozenset({"ASK", "CROSSSLOT", "MOVED", "NOPERM"})
# redis-py takes the code off the text where it has an exception for it.
_CODES: Final = {
    "AskError": "ASK",
    "ClusterCrossSlotError": "CROSSSLOT",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "MovedError": "MOVED",
    "NoPermissionError": "NOPERM",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
}


class Redirection(NamedTuple):
    """Where a node of a cluster sends a client; `host` is empty if it is the node's own host.

    https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/ (MOVED, ASK).
    """

    asking: bool  # for this once, while the slot is on its way
    host: str
    port: int


def parse(error: Exception) -> tuple[str, str]:
    """Return the code of an error reply, empty where it has none, and its text."""
    text = str(error).rpartition("Transaction discarded because of: ")[2]
    if type(error).__name__ == "MasterNotFoundError":
        text = text.partition(" : ")[0]  # behind it stand the options of all clients
    code = _CODES.get(type(error).__name__, "")
    first, _, rest = text.partition(" ")
    if not code and first.isupper() and first.isalpha():
        return first, rest
    return code, text


def unavailable(place: str, error: Exception) -> BackendUnavailable:
    """Return the error for a server that is away or refuses everyone; `error` is its cause."""
    failure = BackendUnavailable(f"Redis at {place}: {' '.join(parse(error)).strip()}")
    failure.__cause__ = error
    return failure


def failure(error: Exception, place: str, stream: str, *, shared: bool) -> DeliveryError:
    """Return what an error reply to one XADD means.

    `shared` tells that nearly every event goes to the stream. What is wrong with such a stream is
    no event's fault: they wait until it is put right. But a stream that only this event asked for
    must not stop the others.
    """
    code, text = parse(error)
    if code in _UNAVAILABLE or text.startswith("unknown command"):
        return unavailable(place, error)
    if code in _MISPLACED and (shared or "permissions to run" in text):
        return unavailable(place, error)
    kind = Rejected if code == "WRONGTYPE" or is_protocol_error(error) else TransientError
    refused = kind(f"stream {stream!r} of Redis at {place}: {code} {text}".strip())
    refused.__cause__ = error
    return refused


def redirection(error: object) -> Redirection | None:
    """Return where the reply sends us, None if it is no such reply."""
    if not isinstance(error, Exception):
        return None
    code, text = parse(error)
    if code not in ("ASK", "MOVED"):
        return None
    host, _, port = text.split()[-1].rpartition(":")
    return Redirection(code == "ASK", "" if host == "?" else host, int(port))


def is_protocol_error(error: object) -> bool:
    """Tell whether a command was over the server's `proto-max-bulk-len`."""
    return isinstance(error, Exception) and str(error).startswith("Protocol error")


def errors(replies: list[object]) -> list[Exception | None]:
    """Return for each reply its error, or None."""
    return [reply if isinstance(reply, Exception) else None for reply in replies]
