"""What several of the webhook backend's tests want."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django_broadcaster.backends import Message
from django_broadcaster.testing import make_message
from tests.support.webhook_server import WebhookServer

HMAC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_HMAC = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


def to(url: str, key: str = "", data: Any = 1) -> Message:
    """A message for an endpoint of its own."""
    return make_message(data=data, partition_key=key, config={"url": url})


def ids(server: WebhookServer) -> list[str]:
    """The ids of the events that came, in order."""
    return [request.headers["webhook-id"] for request in server.requests]


def ids_of(messages: Sequence[Message]) -> list[str]:
    """The ids of messages."""
    return [message.event_id for message in messages]
