"""From a publish call to rows of the outbox; the same for one event and for many.

A `PublishCall` is what all events of a call have in common. It judges each event and makes rows of
it: `destinations` says where to, `columns` what is written, `limits` what a backend never takes.
`transactions` judges the caller's transaction. `writing` brings rows into the database and tells
who waits for them. `one` does all that for one event, `many` for those of `publish_events`, in
chunks, and `model_rows` for what is written through the model. `asynchronous` makes the calls
awaitable.
"""

from .asynchronous import asynchronous
from .bulk import BATCH_SIZE, publish_many
from .call import PublishCall, event_of
from .columns import MAX_RETRIES, RETRIES_OF_SETTINGS
from .model_rows import announce, fill_in
from .single import publish_one

__all__ = [
    "BATCH_SIZE",
    "MAX_RETRIES",
    "RETRIES_OF_SETTINGS",
    "PublishCall",
    "announce",
    "asynchronous",
    "event_of",
    "fill_in",
    "publish_many",
    "publish_one",
]
