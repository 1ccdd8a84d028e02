"""What happened. Receivers observe: what they raise is logged and goes no further.

A receiver of `event_created` that undoes or ends the caller's transaction makes the publish call
raise `BrokenTransaction`. The relay's signals are sent on connections that are not the relay's own.

The signals of an event are sent with `sender` = the class `OutboxEvent` and these arguments:

================== ======================================= ===================================
signal             sent                                    arguments
================== ======================================= ===================================
`event_created`    by the publish call, inside the          `event`
                   caller's transaction
`event_published`  after the broker acknowledged it and    `event`
                   the row says so
`event_retried`    after a failed attempt that will be     `event`, `error` (DeliveryError),
                   repeated                                `delay` (seconds)
`event_failed`     after it was dead-lettered              `event`, `error` (DeliveryError)
================== ======================================= ===================================

`batch_settled` is for instrumentation: sent by the relay after each delivery that had work, with
`sender` = the class `DeliveryLoop` and `backend` (alias), `relay` (id of the lease), `report` (the
figures), `seconds` (from fetch to settle) and `circuit_is_open`.

`relay_started` is for instrumentation, too: sent by `outbox_worker` in each process that delivers,
before it begins, with `sender` = the class `Worker`, `database` and `backends` (aliases).

`event` is the `OutboxEvent` as the database holds it then. The relay reads it back only when a
signal has a receiver, so an unused signal costs nothing.

`endpoint_disabled` is sent with `sender` = the class `OutboxWebhookEndpoint` and the argument
`endpoint`, an instance of it, by the relay that disabled a webhook's endpoint, after its row says
so.

`operation_ended` is sent with `sender` = the class `OutboxOperation` and the argument `operation`,
an instance of it, by the relay with which an operation was done or failed, after its row says so.
"""

from django.dispatch import Signal

event_created = Signal()
event_published = Signal()
event_retried = Signal()
event_failed = Signal()
endpoint_disabled = Signal()
batch_settled = Signal()
relay_started = Signal()
operation_ended = Signal()

rows_to_insert = Signal()
"""For this package: sent by the model before it inserts events, to have them filled in.

Arguments: `events`, `using`. What the receiver raises is raised by `save()` or `bulk_create()`.
"""

rows_inserted = Signal()
"""For this package: sent by the model after it inserted events, in the same transaction."""
