"""From a publish call to rows of the outbox; the same for one event and for many.

- `call`: a `PublishCall` holds what the events of a call share. It validates each event and makes
  its rows.
- `destinations` returns the backends of an event, `columns` the values of a row, and `limits`
  rejects what a backend or a database never accepts.
- `transactions` checks the caller's transaction.
- `insertion` writes rows, sends `event_created` and notifies the relays.
- `single` publishes one event, `bulk` those of `publish_events`, and `model_rows` the rows that an
  application writes through the model. `direct` publishes the call of a task to one backend.
- `asynchronous` makes the calls awaitable.
"""

from .asynchronous import asynchronous
from .bulk import BATCH_SIZE, publish_many
from .call import PublishCall, event_of
from .direct import publish_directly
from .model_rows import announce, fill_in
from .single import publish_one
from .transactions import has_transaction

__all__ = [
    "BATCH_SIZE",
    "PublishCall",
    "announce",
    "asynchronous",
    "event_of",
    "fill_in",
    "has_transaction",
    "publish_directly",
    "publish_many",
    "publish_one",
]
