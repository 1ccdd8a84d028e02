"""The connection to one server, and transactions over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from django_broadcaster.exceptions import BackendUnavailable

from ..errors import mapped
from .address import library
from .commands import packed
from .errors import is_protocol_error, unavailable

_ASKING: Final = packed("ASKING")
_MULTI: Final = packed("MULTI")
_EXEC: Final = packed("EXEC")
_GET_LIMIT: Final = packed("CONFIG", "GET", "proto-max-bulk-len")


Entry = tuple[int, bytes, str]
"""One event in flight: its place in the batch, its packed XADD, and its stream."""


@dataclass(slots=True, eq=False)
class Transaction:
    """Entries that a server stores together, or not at all.

    `replies` are those to MULTI, to each command and to EXEC, fewer if a protocol error came
    between. It is the error instead when nothing, or not enough, is known of it.
    """

    connection: Connection
    entries: Sequence[Entry]
    asking: bool = False
    replies: list[Any] | BackendUnavailable | None = None


class Connection:
    """One server, or whichever is the master, over a connection of redis-py's pool.

    Nothing is repeated here or in redis-py: a transaction that is sent twice may be carried out
    twice, and after a later one. `limit` is the server's for one value, None while not known.
    """

    def __init__(self, client: Any, place: str, *, replicas: int, timeout: float) -> None:
        self.place = place
        self.limit: int | None = None
        self._client = client
        self._replicas = replicas
        # Half the time that the whole answer may take: the server is to answer before that is up.
        self._wait = packed("WAIT", replicas, max(1, int(timeout * 500))) if replicas else b""
        self._ready = False
        self._connection: Any = None

    def close(self) -> None:
        """Disconnect."""
        self.give_up()
        self._client.close()
        manager = getattr(self._client.connection_pool, "sentinel_manager", None)
        for sentinel in manager.sentinels if manager else ():
            sentinel.close()

    def abandon(self) -> None:
        """Close this process's copies of the sockets; redis-py tells the server nothing then.

        Where a release of redis-py has no such lists, the sockets are closed with the pool.
        """
        pool = self._client.connection_pool
        for name in ("_available_connections", "_in_use_connections"):
            for each in getattr(pool, name, ()):
                each.disconnect()

    # --- Transactions ------------------------------------------------------------------------

    def send(self, transactions: Sequence[Transaction]) -> None:
        """Send transactions; `receive` or `give_up` must follow. Raises BackendUnavailable."""
        self.greet()
        packed: list[bytes] = []
        for each in transactions:
            packed.append(_ASKING + _MULTI if each.asking else _MULTI)
            packed += [command for _, command, _ in each.entries]
            packed.append(_EXEC)
        self._send(b"".join((*packed, self._wait)))

    def receive(self, transactions: Sequence[Transaction]) -> None:
        """Read the replies to what was sent; raises BackendUnavailable if they do not all come.

        Replies that did come are kept: those transactions are known.
        """
        for each in transactions:
            replies = self._receive(len(each.entries) + 2 + each.asking)
            each.replies = replies[1:] if each.asking else replies
            if is_protocol_error(replies[-1]):
                self._release(usable=False)
                return
        enough = not self._wait or self._is_replicated()
        executed = all(isinstance(each.replies[-1], list) for each in transactions)  # type: ignore[index]
        self._release(usable=enough and executed)
        if not enough:
            for each in transactions:
                if isinstance(each.replies[-1], list):  # type: ignore[index]
                    each.replies = self._too_few_replicas()

    def _is_replicated(self) -> bool:
        (count,) = self._receive(1)
        self._ready = self._ready and isinstance(count, int) and count >= self._replicas
        return self._ready

    def _too_few_replicas(self) -> BackendUnavailable:
        error = Exception(f"fewer than {self._replicas} replicas have confirmed (wait_replicas)")
        return unavailable(self.place, error)

    def ask(self, packed: bytes, count: int) -> list[Any]:
        """Send anything, and return `count` replies; raises BackendUnavailable."""
        try:
            self._send(packed)
            replies = self._receive(count)
            self._release(usable=not isinstance(replies[-1], Exception))
        finally:
            self.give_up()
        return replies

    def ping(self) -> bool:
        """Ask whether it is there; may raise anything of redis-py's."""
        return bool(self._client.ping())

    def greet(self) -> None:
        """Check that transactions are permitted, and learn the server's limit for one value.

        A command over that limit costs the connection, often before the reason can be read. Without
        the limit, such an event would look like an unavailable server and stop all others. Done
        once, and again after the connection broke: another server may be the master by then. With
        too few replicas nothing is sent, so that an event is not stored again and again without
        them.
        """
        if self._ready:
            return
        count = 4 if self._wait else 3
        begun, executed, *waited, limit = self.ask(_MULTI + _EXEC + self._wait + _GET_LIMIT, count)
        for reply in (begun, executed, *waited):
            if isinstance(reply, Exception):
                raise unavailable(self.place, reply)
        if waited and waited[0] < self._replicas:
            raise self._too_few_replicas()
        # Else CONFIG is not permitted.
        self.limit = int(limit[1]) if isinstance(limit, list) and len(limit) == 2 else None
        self._ready = True

    # --- The socket --------------------------------------------------------------------------

    def give_up(self) -> None:
        """Disconnect if replies may still come over it.

        They would pass for those of the next batch, and a transaction without its EXEC would
        swallow it.
        """
        if self._connection is not None:
            self._release(usable=False)

    def _release(self, *, usable: bool) -> None:
        connection, self._connection = self._connection, None
        if not usable:
            connection.disconnect()
        self._client.connection_pool.release(connection)

    def _send(self, packed: bytes) -> None:
        with mapped(self._lost):
            self._connection = self._client.connection_pool.get_connection()
            self._connection.send_packed_command([packed], check_health=False)

    def _receive(self, count: int) -> list[Any]:
        with mapped(self._lost):
            return read(self._connection, count, library().ResponseError)

    def _lost(self, error: Exception) -> BackendUnavailable:
        self._ready = False
        return unavailable(self.place, error)


def exchange(transactions: Sequence[Transaction]) -> None:
    """Carry out transactions, in one round trip to all the servers at once.

    Each has its `replies` then. One without any was not carried out: the server stopped reading
    before it, at a protocol error.
    """
    by_server: dict[int, list[Transaction]] = {}
    for each in transactions:
        by_server.setdefault(id(each.connection), []).append(each)
    under_way = []
    try:
        for group in by_server.values():
            if _attempt(group[0].connection.send, group):
                under_way.append(group)
        for group in under_way:
            _attempt(group[0].connection.receive, group)
    finally:  # interrupts end up here, too
        for group in by_server.values():
            group[0].connection.give_up()


def _attempt(step: Any, group: list[Transaction]) -> bool:
    """Do something with all transactions of a server; if that breaks, their fate is the error."""
    try:
        step(group)
    except BackendUnavailable as error:
        for each in group:
            if each.replies is None:
                each.replies = error
        return False
    return True


def read(connection: Any, count: int, error_reply: type[Exception]) -> list[Any]:
    """Read up to `count` replies; error replies are values.

    After a protocol error, which is the last one then, the server says nothing more.
    """
    replies: list[Any] = []
    receive = connection.read_response
    for _ in range(count):
        try:
            replies.append(receive())
        except error_reply as error:
            replies.append(error)
            if is_protocol_error(error):
                break
    return replies
