"""System checks: Django reports a wrong setting when it starts, with the fix.

`docs/reference/checks.md` lists the ids. Projects silence checks by id, so an id keeps its meaning.
"""

from __future__ import annotations

from django.core.checks import Tags, register

from ..check_messages import TAG
from . import (
    consumers,
    database,
    former,
    model_events,
    policies,
    publishers,
    retention,
    routes,
    tasks,
    typed_events,
    values,
)

__all__ = ["CHECKS", "TAG", "register_checks"]

CHECKS = (
    publishers.check_publishers,
    publishers.check_backends,
    publishers.check_client_libraries,
    publishers.check_trimming,
    publishers.check_databases_of_backends,
    publishers.check_slots,
    tasks.check_runners,
    consumers.check_consumers,
    consumers.check_consumer_classes,
    consumers.check_consumer_libraries,
    consumers.check_inbox_retention,
    consumers.check_handlers_of_consumers,
    policies.check_retry,
    policies.check_backend_retries,
    policies.check_circuit,
    routes.check_routes,
    typed_events.check_typed_events,
    model_events.check_model_events,
    values.check_values,
    former.check_worker,
    former.check_form_of_worker,
    former.check_former_retention,
    former.check_form_of_retention,
    retention.check_retention,
    retention.check_backend_retentions,
    retention.check_archive,
    retention.check_what_is_archived,
    retention.check_archive_of_partitions,
    values.check_encryption_keys,
    values.check_redactor,
    values.check_json_encoder,
    values.check_poll_within_lease,
    values.check_unknown_settings,
)


DATABASE_CHECKS = (
    database.check_id_sequence,
    database.check_partitions,
    database.check_events_of_0_1,
    database.check_character_sets,
    database.check_isolation_level,
    database.check_transaction_mode,
)


def register_checks() -> None:
    """Register every check under the tag `django_broadcaster`, or `database`."""
    for check in CHECKS:
        register(check, TAG)
    for check in DATABASE_CHECKS:
        register(check, Tags.database)
