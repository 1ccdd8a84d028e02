"""The types of settings know every setting and key, and no others."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest

from django_broadcaster import archives, setting_types
from django_broadcaster.backends import handler as backends
from django_broadcaster.backends.kafka.schemas.writing import KEYS as SCHEMA_REGISTRY_KEYS
from django_broadcaster.checks.policies import CIRCUIT_DEFAULTS, RETRY_DEFAULTS
from django_broadcaster.checks.retention import STATUSES
from django_broadcaster.conf import all_settings
from django_broadcaster.consumers import handler as consumers


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        (setting_types.OutboxSettings, all_settings()),
        (setting_types.BackendEntry, backends.ENTRY_KEYS),
        (setting_types.ConsumerEntry, consumers.ENTRY_KEYS),
        (setting_types.ArchiveEntry, archives.ENTRY_KEYS),
        (setting_types.Retention, STATUSES),
        (setting_types.Retry, RETRY_DEFAULTS),
        (setting_types.Circuit, CIRCUIT_DEFAULTS),
        (setting_types.SchemaRegistry, SCHEMA_REGISTRY_KEYS),
    ],
)
def test_a_type_has_the_keys_that_the_system_checks_accept(kind: type[Any], keys: Any) -> None:
    """A key that one of the two lacks would be an error in one of them."""
    assert set(get_type_hints(kind)) == set(keys)
