"""NATS JetStream: every event becomes one message of a stream.

    Nats-Msg-Id            the event's id, `:`, and a digest of its source and subject
    Nats-Expected-Stream   the stream, so that no other one takes the event
    Content-Type           `application/cloudevents+json`, in structured mode only
    ce-*                   the event's attributes, in binary mode only
    Nats-TTL               the seconds until the event's `expirytime`, if the stream takes it
                           (`allow_msg_ttl`, of nats-server 2.11 or newer)

`backend` is the backend itself, `sender` sends a batch over the `connection`, `names` has the
subjects that messages go to. Needs nats-server 2.2 or newer with JetStream.

The server drops a message whose `Nats-Msg-Id` it has had within the stream's duplicate window, and
acknowledges it. An event id alone would not do: it is unique for its source only, and one event may
go to several subjects of a stream.
"""

from .backend import NATSBackend

__all__ = ["NATSBackend"]
