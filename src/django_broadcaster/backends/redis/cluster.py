"""Which server has a stream: there is only one, or a cluster's slots tell.

https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from django_broadcaster.exceptions import BackendUnavailable

from ..connected import HeldConnection
from .address import Address, Node, library
from .commands import packed
from .connection import Connection, Entry, Transaction
from .errors import Redirection, unavailable

SLOTS: Final = 16384
_CLUSTER_SLOTS: Final = packed("CLUSTER", "SLOTS")

Connect = Callable[[Node | None], Connection]


class Servers(HeldConnection):
    """All that a backend has to know of where its streams are."""

    @abstractmethod
    def open(self, stream: str | None) -> None:
        """Connect, for a stream if it is always the same; raises BackendUnavailable."""

    @abstractmethod
    def connection_of(self, stream: str) -> Connection:
        """Return the connection to the server of a stream; raises BackendUnavailable."""

    @abstractmethod
    def plan(self, entries: Sequence[Entry]) -> list[Transaction]:
        """Return the transactions that entries go in; raises BackendUnavailable."""

    @abstractmethod
    def redirect(self, transaction: Transaction, where: Redirection) -> bool:
        """Note where the entries of a transaction belong; return False if nowhere else."""

    @abstractmethod
    def lost(self) -> None:
        """Note that a server is away: another may have its work now."""

    @property
    @abstractmethod
    def limit(self) -> int | None:
        """The lowest known limit of a server for one value."""

    @abstractmethod
    def is_up(self, stream: str | None) -> bool:
        """Ask whether events can be sent; may raise anything of redis-py's."""


class OneServer(Servers):
    """One server, or the master that sentinels know: all entries go in one transaction."""

    def __init__(self, connect_to: Connect) -> None:
        self._connection = connect_to(None)

    def open(self, stream: str | None) -> None:
        """Connect; raises BackendUnavailable."""
        self._connection.greet()

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()

    def abandon(self) -> None:
        """Close this process's copy of the socket."""
        self._connection.abandon()

    def connection_of(self, stream: str) -> Connection:
        """Return the connection to the server."""
        return self._connection

    def plan(self, entries: Sequence[Entry]) -> list[Transaction]:
        """Return one transaction."""
        return [Transaction(self._connection, entries)]

    def redirect(self, transaction: Transaction, where: Redirection) -> bool:
        """Return False: without the option `cluster` there is nowhere else to go."""
        return False

    def lost(self) -> None:
        """Do nothing: the next connection asks the sentinels again."""

    @property
    def limit(self) -> int | None:
        """The server's limit for one value, if it is known."""
        return self._connection.limit

    def is_up(self, stream: str | None) -> bool:
        """Ping the server."""
        return self._connection.ping()


class Cluster(Servers):
    """The nodes of a cluster, each over a connection of its own, and who has which slot.

    A transaction is for one stream, because a node takes none over several slots. If a slot is
    moving, no node would have all the streams of a transaction over several.
    """

    def __init__(self, connect_to: Connect, seeds: Iterable[Node]) -> None:
        self._connect_to = connect_to
        self._seeds = list(dict.fromkeys(seeds))
        self._startup = tuple(self._seeds)
        self._connections: dict[Node, Connection] = {}
        self._owners: list[Node | None] = []  # by slot; empty while not known
        self._asking: dict[str, Node] = {}  # streams whose slots are moving, for the next plan

    def open(self, stream: str | None) -> None:
        """Learn who has which slot, and connect to the stream's node; raises BackendUnavailable."""
        self._learn()
        if stream is not None:
            self.connection_of(stream).greet()

    def close(self) -> None:
        """Disconnect from all nodes."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
        self._owners = []

    def abandon(self) -> None:
        """Close this process's copies of the sockets."""
        for connection in self._connections.values():
            connection.abandon()

    def connection_of(self, stream: str) -> Connection:
        """Return the connection to the node of a stream; raises BackendUnavailable."""
        if not self._owners:
            self._learn()
        slot = _slot(stream)
        node = self._owners[slot]
        if node is None:
            self._owners = []
            error = Exception(f"slot {slot}, of stream {stream!r}, is not served")
            raise unavailable(f"the cluster of {self._seeds[0].netloc}", error)
        return self._connection_to(node)

    def plan(self, entries: Sequence[Entry]) -> list[Transaction]:
        """Return a transaction for each stream; raises BackendUnavailable."""
        by_stream: dict[str, list[Entry]] = {}
        for entry in entries:
            by_stream.setdefault(entry[2], []).append(entry)
        asking, self._asking = self._asking, {}
        return [
            Transaction(self._connection_to(asking[stream]), group, asking=True)
            if stream in asking
            else Transaction(self.connection_of(stream), group)
            for stream, group in by_stream.items()
        ]

    def redirect(self, transaction: Transaction, where: Redirection) -> bool:
        """Note where the stream is: for once, or from now on."""
        stream = transaction.entries[0][2]
        host = where.host or self._host_of(transaction.connection)
        node = Node(host, where.port)
        if where.asking:
            self._asking[stream] = node
        elif self._owners:
            self._owners[_slot(stream)] = node
        return True

    def lost(self) -> None:
        """Ask again who has which slot: a replica may have taken over."""
        self._owners = []

    @property
    def limit(self) -> int | None:
        """The lowest limit of a node, as far as they are known."""
        limits = (each.limit for each in self._connections.values())
        return min(filter(None, limits), default=None)

    def is_up(self, stream: str | None) -> bool:
        """Ping the stream's node, or every one that has slots if streams differ."""
        self._learn()
        if stream is not None:
            return self.connection_of(stream).ping()
        return all(
            self._connection_to(node).ping() for node in set(self._owners) if node is not None
        )

    # --- Nodes -------------------------------------------------------------------------------

    def _connection_to(self, node: Node) -> Connection:
        if node not in self._connections:
            self._connections[node] = self._connect_to(node)
        return self._connections[node]

    def _host_of(self, connection: Connection) -> str:
        return next(node.host for node, each in self._connections.items() if each is connection)

    def _learn(self) -> None:
        """Ask one node after the other for the slots, until one answers."""
        failure: BackendUnavailable | None = None
        for node in tuple(self._seeds):
            connection = self._connection_to(node)
            try:
                (answer,) = connection.ask(_CLUSTER_SLOTS, 1)
                if isinstance(answer, Exception):
                    raise unavailable(connection.place, answer)
            except BackendUnavailable as error:
                failure = failure or error
                # It is asked last, the next time: one that hangs is waited for but once.
                self._seeds.remove(node)
                self._seeds.append(node)
            else:
                self._owners = _owners(answer, node.host)
                self._forget_others()
                return
        assert failure is not None
        raise failure

    def _forget_others(self) -> None:
        """Ask the nodes that are there now, the next time, and disconnect from all others."""
        known = {node for node in self._owners if node is not None}
        answered = self._seeds[0]
        self._seeds = list(dict.fromkeys([answered, *sorted(known), *self._startup]))
        for node in self._connections.keys() - known - {answered}:
            self._connections.pop(node).close()


def servers(
    address: Address, *, timeout: float, connect_timeout: float, replicas: int = 0
) -> Servers:
    """Return what knows where streams are; it connects at first use. Raises MissingClient."""

    def connect_to(node: Node | None) -> Connection:
        client = address.client(timeout, connect_timeout, node)
        place = address.place if node is None else node.netloc
        return Connection(client, place, replicas=replicas, timeout=timeout)

    return Cluster(connect_to, address.seeds) if address.cluster else OneServer(connect_to)


def _owners(answer: list[Any], asked: str) -> list[Node | None]:
    """Return the node of each slot, by the reply to CLUSTER SLOTS of a node.

    The reply has no name for a node that does not know its own. Such a node has the address of the
    asked one.
    """
    owners: list[Node | None] = [None] * SLOTS
    for first, last, master, *_replicas in answer:
        host = _text(master[0])
        node = Node(asked if host in ("", "?") else host, int(master[1]))
        owners[first : last + 1] = [node] * (last + 1 - first)
    return owners


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")


def _slot(stream: str) -> int:
    slot: int = library().crc.key_slot(stream.encode())
    return slot
