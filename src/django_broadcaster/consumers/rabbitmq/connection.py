"""A connection that receives: what the server has delivered, and its acknowledgement."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping
from struct import Struct
from typing import Any, Final

from django_broadcaster.backends.amqp import watched
from django_broadcaster.backends.rabbitmq.connection import AMQPConnection

from .incoming import Assembler, Incoming, acknowledgement

READ_BYTES: Final = 2**16
FRAME_END: Final = 0xCE
_FRAME_HEAD: Final = Struct(">BHI")  # kind, channel, size

TICKS: Final = 4
"""How often a connection that waits looks after its heartbeats, in the time of one."""


class FrameReader:
    """Reads the frames of a connection many at a time.

    The client's own way asks the system three times for each frame, of which a message has three.

    Args:
        transport: That of py-amqp's connection.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._data = b""
        self._start = 0

    @property
    def is_ready(self) -> bool:
        """Whether a frame has been read and not yet returned."""
        return len(self._data) >= self._end()

    def __call__(self) -> tuple[int, int, bytes]:
        """Return the next frame: its kind, its channel and its payload; raises OSError."""
        while len(self._data) < (end := self._end()):
            self._read()
        start, self._start = self._start, end
        kind, channel, _ = _FRAME_HEAD.unpack_from(self._data, start)
        if self._data[end - 1] != FRAME_END:
            raise OSError("the server does not speak AMQP")
        return kind, channel, self._data[start + _FRAME_HEAD.size : end - 1]

    def _end(self) -> int:
        """Return where the next frame ends, as far as that is known."""
        if len(self._data) < self._start + _FRAME_HEAD.size:
            return self._start + _FRAME_HEAD.size + 1
        _, _, size = _FRAME_HEAD.unpack_from(self._data, self._start)
        return self._start + _FRAME_HEAD.size + int(size) + 1

    def _read(self) -> None:
        try:
            data = self._transport.sock.recv(READ_BYTES)
        except TimeoutError:
            raise
        except OSError:
            self._transport.connected = False
            raise
        if not data:
            self._transport.connected = False
            raise OSError("the server closed the connection")
        self._data, self._start = self._data[self._start :] + data, 0


class ReceivingConnection(AMQPConnection):
    """A connection with one channel that consumes.

    arrived: the messages that the server has delivered, in their order.
    cancelled: whether the server has ended the consumer.
    """

    def __init__(self, options: Mapping[str, Any], *, place: str, timeout: float) -> None:
        self.arrived: deque[Incoming] = deque()
        self.cancelled = False
        self._assembler = Assembler()
        super().__init__(options, place=place, timeout=timeout)

    def consume(self, queue: str, *, prefetch: int, exclusive: bool) -> None:
        """Ask for messages; raises ChannelRefused or BackendUnavailable."""
        with self._guarded():
            self.channel.basic_qos(0, prefetch, False)
            self.channel.basic_consume(queue, exclusive=exclusive, on_cancel=self._on_cancel)

    def is_consumed_by_others(self, queue: str) -> bool:
        """Return True if the server lets another channel read the queue, too."""
        with self._guarded():
            other = self.connection.channel()
            try:
                other.basic_qos(0, 1, False)
                other.basic_consume(queue)
            except self._amqp.AccessRefused:
                return False
            return True

    def wait(self, deadline: float) -> None:
        """Wait until a message has arrived, or the deadline."""
        pause = self.connection.heartbeat / TICKS
        while not self.arrived and not self.cancelled and time.monotonic() < deadline:
            self.receive(min(deadline, time.monotonic() + pause))
            self.keep_alive()

    def catch_up(self) -> None:
        """Read what the server has said already, which may be that it closed the connection."""
        with watched(self.connection) as has_news:
            while self._frames.is_ready or has_news():
                self.receive(time.monotonic() + self._timeout)

    def keep_alive(self) -> None:
        """Read what has arrived, and send a heartbeat if one is due."""
        self.catch_up()
        with self._guarded():
            self.connection.heartbeat_tick()

    def acknowledge(self, tags: Iterable[int], *, up_to: int) -> None:
        """Acknowledge all messages up to one, unless that is 0, and those with these tags."""
        number = self.channel.channel_id
        parts = [acknowledgement(number, up_to, many=True)] if up_to else []
        parts += [acknowledgement(number, tag) for tag in tags]
        with self._guarded():
            self.connection.transport.write(b"".join(parts))
        self.keep_alive()

    def _open_channel(self) -> Any:
        channel = super()._open_channel()
        connection, assembler, number = self.connection, self._assembler, channel.channel_id
        take_other = connection.on_inbound_frame

        def take(frame: tuple[int, int, bytes]) -> bool:
            kind, channel_number, payload = frame
            if channel_number != number or not assembler.takes(kind, payload):
                return bool(take_other(frame))
            connection.bytes_recv += 1  # counts as a heartbeat
            message = assembler.feed(kind, bytes(payload))
            if message is not None:
                self.arrived.append(message)
            return message is not None

        connection.on_inbound_frame = take
        self._frames = connection.transport.read_frame = FrameReader(connection.transport)
        return channel

    def _on_cancel(self, _tag: str) -> None:
        self.cancelled = True
