"""The meaning of errors of Redis, and of redis-py, for events."""

from __future__ import annotations

from typing import Final, NamedTuple

from django_broadcaster.exceptions import BackendUnavailable, DeliveryError

from .. import errors
from ..errors import ErrorTable, Scope

ERRORS: Final = ErrorTable({
    Scope.BROKER: {  # the server is full, read-only, can't persist, ...
        "BUSY", "CLUSTERDOWN", "EXECABORT", "LOADING", "MASTERDOWN", "MISCONF", "NOAUTH",
        "NOREPLICAS", "OOM", "READONLY",
    },
    # The stream is not permitted, or on another node of a cluster.
    Scope.DESTINATION: {"ASK", "CROSSSLOT", "MOVED", "NOPERM"},
    Scope.EVENT: {"WRONGTYPE"},
})  # fmt: skip
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

    asking: bool  # for this command only, while the slot is moving
    host: str
    port: int


def parse(error: Exception) -> tuple[str, str]:
    """Return the code of an error reply, empty where it has none, and its text."""
    text = str(error).rpartition("Transaction discarded because of: ")[2]
    if type(error).__name__ == "MasterNotFoundError":
        text = text.partition(" : ")[0]  # the options of all clients follow
    code = _CODES.get(type(error).__name__, "")
    first, _, rest = text.partition(" ")
    if not code and first.isupper() and first.isalpha():
        return first, rest
    return code, text


def unavailable(place: str, error: Exception) -> BackendUnavailable:
    """Return the error for a server that is away or refuses everyone; `error` is its cause."""
    return errors.unavailable(f"Redis at {place}: {' '.join(parse(error)).strip()}", error)


def failure(error: Exception, place: str, stream: str, *, shared: bool) -> DeliveryError:
    """Return what an error reply to one XADD means.

    Args:
        error: The reply.
        place: The server.
        stream: The stream of the event.
        shared: Whether nearly all events go to that stream.
    """
    code, text = parse(error)
    scope = ERRORS.scope(code)
    if is_protocol_error(error):
        scope = Scope.EVENT
    elif text.startswith("unknown command") or (code == "NOPERM" and "permissions to run" in text):
        scope = Scope.BROKER
    if scope is Scope.BROKER or (scope is Scope.DESTINATION and shared):
        return unavailable(place, error)
    problem = f"stream {stream!r} of Redis at {place}: {code} {text}".strip()
    return scope.error(problem, shared=shared, cause=error, reason=f"Redis answered {code}".strip())


def redirection(error: object) -> Redirection | None:
    """Return where the reply redirects to, None if it does not redirect."""
    if not isinstance(error, Exception):
        return None
    code, text = parse(error)
    if code not in ("ASK", "MOVED"):
        return None
    host, _, port = text.split()[-1].rpartition(":")
    return Redirection(code == "ASK", "" if host == "?" else host, int(port))


def is_protocol_error(error: object) -> bool:
    """Return True if a command was over the server's `proto-max-bulk-len`."""
    return isinstance(error, Exception) and str(error).startswith("Protocol error")


def errors_in(replies: list[object]) -> list[Exception | None]:
    """Return for each reply its error, or None."""
    return [reply if isinstance(reply, Exception) else None for reply in replies]
