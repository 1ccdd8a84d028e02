"""Webhooks: every event is a POST, by the HTTP binding of CloudEvents, signed by Standard Webhooks.

An event is delivered when its endpoint answers with a status from 200 to 299. Redirects are not
followed, and addresses that are not public are refused unless they are allowed.

Either all events go to the one endpoint `url`, or, with `event_urls`, each to the `url` in its
`publisher_config`. If the only endpoint is unavailable, so is the backend: everything waits. If one
of many is unavailable, its own events wait and spend no retries. After `disable_after` it is
disabled.
"""

from .backend import WebhookBackend

__all__ = ["WebhookBackend"]
