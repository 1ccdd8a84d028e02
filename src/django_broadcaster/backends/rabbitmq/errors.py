"""The meaning of RabbitMQ's refusals for an event.

https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf, section 1.2.
"""

from __future__ import annotations

from typing import Final

from ..errors import ErrorTable, Scope

ERRORS: Final = ErrorTable({Scope.EVENT: {406}}, default=Scope.DESTINATION)
"""By reply code. 404 and 403: the exchange is missing, or may not be written to. 406: the message
is too large, or has a property that the server does not take."""

EXCHANGE_CODES: Final = frozenset({403, 404})
"""Reply codes that all messages for the same exchange would get."""


class ChannelRefused(Exception):
    """The server closed the channel: it refused a message, and has ignored all that followed."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.is_about_topic = "access to topic '" in text  # else about the exchange
