"""The meaning of MQTT 5's reason codes for an event.

https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html, section 2.4.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from ..errors import ErrorTable, Scope
from .packets import Packet

ERRORS: Final = ErrorTable({
    Scope.BROKER: {0x97},  # quota exceeded
    Scope.DESTINATION: {0x87},  # not authorized
    Scope.INVALID_DESTINATION: {0x90},  # topic name invalid
    Scope.EVENT: {0x81, 0x82, 0x95, 0x99},  # malformed, against the protocol, too large, not UTF-8
})  # fmt: skip

REFUSED: Final = 0x80
"""Reason codes from here on say that a message was not taken."""

BLAMING: Final = frozenset({0x81, 0x82, 0x87, 0x90, 0x95, 0x99})
"""Reasons to end a connection that are about a message."""


class ConnectionLost(Exception):
    """The connection is of no further use; what was not acknowledged may or may not have arrived.

    code: the server's own reason (a reason code of MQTT 5); None if it gave none.
    hung_up: whether the other side ended it, rather than that nothing was heard of it.
    """

    def __init__(self, text: str, *, code: int | None = None, hung_up: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.hung_up = hung_up


def disconnected(packet: Packet) -> ConnectionLost:
    """Return what a DISCONNECT of the server says (3.14)."""
    code = packet.body[0] if packet.body else 0
    text = f"the server disconnected: {reason_text('DISCONNECT', code, packet.body[1:])}"
    return ConnectionLost(text, code=code, hung_up=True)


def reason_text(kind: str, code: int, properties: bytes) -> str:
    """Return a reason code in words, with the server's own where it has some.

    Args:
        kind: "PUBACK" or "DISCONNECT".
        code: The reason code.
        properties: Those of the packet, with their length.
    """
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

    answer: Any
    packet_type = getattr(PacketTypes, kind)
    name, words = "", ""
    for known in (PacketTypes.DISCONNECT, packet_type):  # servers use codes of other packets
        with suppress(Exception):
            name = f"{ReasonCode(known, identifier=code)} "
    with suppress(Exception):
        answer = Properties(packet_type)  # type: ignore[no-untyped-call]
        if properties:
            answer.unpack(properties)
        words = server_words(answer)
    return f"{name}(0x{code:02X}){words}"


def server_words(answer: Any) -> str:
    """Return what the server itself says about its answer, after a colon; empty if nothing."""
    text = getattr(answer, "ReasonString", "")
    return f": {text}" if text else ""
