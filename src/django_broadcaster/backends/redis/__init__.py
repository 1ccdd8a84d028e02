"""Redis Streams: every event becomes one entry of a stream.

    event_id, event_type, source   as published
    timestamp                      the event's time, RFC 3339 in UTC with `Z`; empty if it has none

and, in structured mode (the default):

    cloud_event    the event in the CloudEvents JSON format; another name by `body_field`

or, in binary mode, those of these that the event has something for:

    ce_*           each attribute but the content type, as text: `ce_specversion`, `ce_id`, ...
    content_type   the media type of the data
    data           the data's bytes as they are, JSON `null` as the text `null`; another name by
                   `body_field`

An entry may have further fields, which the event's `publisher_config` names.

CloudEvents has no binding for Redis. The binary fields are this project's own, named as the Kafka
binding names its headers.

Needs Redis 5 or newer. If ACLs are used, the user needs `+xadd +multi +exec` on its streams,
`+cluster|slots` for a cluster, and `+wait` for `wait_replicas`. An acknowledged entry is as durable
as the server is set up to make it (`appendonly`, `appendfsync`, `min-replicas-to-write`).
"""

from .backend import RedisStreamBackend

__all__ = ["RedisStreamBackend"]
