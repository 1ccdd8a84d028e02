"""What happened to an event. Receivers observe: what they raise is logged and goes no further.

Every signal is sent with `sender` = the class `OutboxEvent` and these arguments:

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

`event` is the `OutboxEvent` as the database holds it then. The relay reads it back only when a
signal has a receiver, so an unused signal costs nothing.
"""

from django.dispatch import Signal

event_created = Signal()
event_published = Signal()
event_retried = Signal()
event_failed = Signal()
