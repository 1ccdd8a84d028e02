"""System checks: a wrong setting is found when Django starts, with the fix to write.

========= ==================================================================================
id        what it finds (each begins with `django_broadcaster.`)
========= ==================================================================================
E001      `OUTBOX_PUBLISHERS` is not a dict with at least one backend
E002      an alias in it is not a string of 1 to 64 characters
E003      the value of an alias is not a dict
E004      an entry has an unknown key
E005      `BACKEND` is missing, can't be imported, or is not a `PublisherBackend`
E006      the backend refuses its `OPTIONS`
E007      `RETRY` of an entry is not a retry policy
E008      `ON_EXHAUSTED` is not one of its words
E009      `OUTBOX_RETRY` is not a retry policy
E010      `OUTBOX_CIRCUIT` has an unknown key or a wrong value
E011      `OUTBOX_ROUTES` is not a dict, or a pattern in it is not a non-empty string
E012      a route's target is not an alias or a non-empty list of aliases
E013      a route's target is an alias that is not configured
E014      a route names an alias twice
E015      `OUTBOX_REQUIRE_TRANSACTION` is not a bool
E016      `OUTBOX_RETENTION` is not a span of time, None, or a dict of these by status
E017      `OUTBOX_INBOX_RETENTION` is not a span of time above 0 or None
E018      `OUTBOX_BATCH_SIZE` is not a whole number from 1 to 10000
E019      `OUTBOX_POLL_INTERVAL` is not a number above 0
E020      `OUTBOX_PARTITIONS` is not a whole number from 1 to 1024
E021      `OUTBOX_LEASE_SECONDS` is not a number from 2 on
E022      `OUTBOX_SHUTDOWN_TIMEOUT` is not a number from 0 on
E023      `OUTBOX_MAX_CRASHES` is not a whole number from 2 on
E024      the outbox's id sequence hands out ids in blocks (a database check, PostgreSQL)
E025      `OUTBOX_NOTIFY` is not a bool
E026      `OUTBOX_HISTORY_RETENTION` is not a span of time above 0 or None
E027      `OUTBOX_WORKER`, of version 0.1, has an unknown key or a wrong value
E028      `OUTBOX_RETENTION` as in version 0.1 has an unknown key or a wrong value
E029      `OUTBOX_MAX_RETRIES` is not a whole number from 0 to 32767
E030      `OUTBOX_BATCH_BYTES` is not a whole number above 0
E031      the isolation level is one that the database refuses to write at (MariaDB and MySQL)
E040      `RETENTION` of an entry is not a span of time, None, or a dict of these by status
E041      `OUTBOX_ARCHIVE` is not None or an archive with its options
E042      `OUTBOX_TIME_PARTITIONS` is not a span of time above 0 or None
E043      the outbox's table and `OUTBOX_TIME_PARTITIONS` differ (a database check, PostgreSQL)
E044      `OUTBOX_ARCHIVE` and `OUTBOX_TIME_PARTITIONS` are both set
E050      `OUTBOX_MAX_LAG_SECONDS` is not a number above 0
E051      `OUTBOX_STALL_SECONDS` is not a number from 1 on
E052      `OUTBOX_MAX_RETRY_AGE_SECONDS` is not a number above 0
E060      `OUTBOX_ENCRYPTION_KEYS` is not a list of Fernet keys, or their library is missing
E061      `OUTBOX_REDACTOR` is not the dotted path of a function
E062      `OUTBOX_JSON_ENCODER` is not the dotted path of a JSON encoder
W001      a relay polls too seldom for its lease
W002      a setting that starts with `OUTBOX_` is unknown
W003      a backend's client library is not installed
W004      a backend trims its Redis stream, also of entries that no consumer has read
W010      events are deleted as they are published, past `OUTBOX_ARCHIVE`
W011      the database lacks characters (a database check; PostgreSQL, MariaDB and MySQL)
W012      transactions take the write lock only as they write (a database check, SQLite)
W070      events of 0.1.1 are left in its table `outbox_events` (a database check)
I001      `OUTBOX_WORKER` is a setting of version 0.1
I002      `OUTBOX_RETENTION` is written as in version 0.1
========= ==================================================================================

An id keeps its meaning for ever: projects silence checks by it.
"""

from __future__ import annotations

from django.core.checks import Tags, register

from . import database, former, policies, publishers, retention, routes, values
from .shared import TAG

__all__ = ["CHECKS", "TAG", "register_checks"]

CHECKS = (
    publishers.check_publishers,
    publishers.check_backends,
    publishers.check_client_libraries,
    publishers.check_trimming,
    policies.check_retry,
    policies.check_backend_retries,
    policies.check_circuit,
    routes.check_routes,
    values.check_require_transaction,
    former.check_worker,
    former.check_form_of_worker,
    former.check_former_retention,
    former.check_form_of_retention,
    retention.check_retention,
    retention.check_backend_retentions,
    retention.check_archive,
    retention.check_what_is_archived,
    retention.check_archive_of_partitions,
    values.check_time_partitions,
    values.check_inbox_retention,
    values.check_history_retention,
    values.check_notify,
    values.check_batch_size,
    values.check_batch_bytes,
    values.check_poll_interval,
    values.check_partitions,
    values.check_lease_seconds,
    values.check_shutdown_timeout,
    values.check_max_lag,
    values.check_max_retry_age,
    values.check_stall_seconds,
    values.check_max_crashes,
    values.check_max_retries,
    values.check_encryption_keys,
    values.check_redactor,
    values.check_json_encoder,
    values.check_poll_within_lease,
    values.check_unknown_settings,
)


def register_checks() -> None:
    """Register every check under the tag `django_broadcaster`, or `database`."""
    for check in CHECKS:
        register(check, TAG)
    register(database.check_id_sequence, Tags.database)
    register(database.check_partitions, Tags.database)
    register(database.check_events_of_0_1, Tags.database)
    register(database.check_character_sets, Tags.database)
    register(database.check_isolation_level, Tags.database)
    register(database.check_transaction_mode, Tags.database)
