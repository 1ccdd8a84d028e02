"""Signals. Errors of receivers are logged and not raised.

If a receiver of `event_created` rolls back or ends the caller's transaction, the publish call
raises `BrokenTransaction`. Receivers of the relay's signals use other connections than the relay.

The signals of an event are sent with `sender` = the class `OutboxEvent` and these arguments:

================== ======================================= ===================================
signal             sent                                    arguments
================== ======================================= ===================================
`event_created`    by the publish call, inside the          `event`
                   caller's transaction
`event_published`  after the broker acknowledged the       `event`
                   event and the row is updated
`event_retried`    after a failed attempt that will be     `event`, `error` (DeliveryError),
                   retried                                 `delay` (seconds)
`event_failed`     after it became a dead letter           `event`, `error` (DeliveryError)
================== ======================================= ===================================

`batch_settled` is for instrumentation. The relay sends it after each delivery with events. Its
`sender` is the class `DeliveryLoop`. Its arguments are `backend` (alias), `relay` (the lease),
`report` (the figures), `seconds` (from fetch to settle) and `circuit_is_open`.

`relay_started` is also for instrumentation. Each process of `outbox_worker` that delivers or
receives sends it at its start, with `sender` = the class `Worker`, `database`, `backends` and
`consumers` (aliases).

`messages_received` is the same for receivers: sent after each batch was written and acknowledged,
with `sender` = the class `Receiver`, `consumer` (alias), `written` (`received`, `duplicates` and
`malformed`) and `seconds` (from receive to acknowledge).

`handler_called` is for instrumentation as well. It is sent after each call of a handler, in the
handler's thread and transaction, so its receivers must not use the database. Its `sender` is the
class `Handler`. Its arguments are `handler`, `seconds` and `error` (the type's name, or empty).

`event` is the `OutboxEvent` with its current state in the database. The relay reads it only if a
signal has a receiver, so an unused signal costs nothing.

`endpoint_disabled` has `sender` = the class `OutboxWebhookEndpoint` and the argument `endpoint`, an
instance of it. The relay that disables a webhook's endpoint sends it after the row is updated.

`operation_ended` has `sender` = the class `OutboxOperation` and the argument `operation`, an
instance of it. The relay that completes an operation, or with which it fails, sends it after the
row is updated.
"""

from django.dispatch import Signal

event_created = Signal()
event_published = Signal()
event_retried = Signal()
event_failed = Signal()
endpoint_disabled = Signal()
batch_settled = Signal()
messages_received = Signal()
relay_started = Signal()
handler_called = Signal()
operation_ended = Signal()

rows_to_insert = Signal()
"""An internal signal: the model sends it before it inserts events; the receiver completes them.

Arguments: `events`, `using`. `save()` and `bulk_create()` raise the receiver's errors.
"""

rows_inserted = Signal()
"""An internal signal: the model sends it after it inserted events, in the same transaction."""
