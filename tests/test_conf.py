"""Settings: their defaults, and that they are read at access."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.checks import run_checks
from django.test import override_settings

from django_broadcaster import checks
from django_broadcaster.conf import Setting, all_settings, conf
from django_broadcaster.publishers import publisher

ROOT = Path(__file__).resolve().parent.parent
DEFAULTS: dict[str, Any] = {
    "OUTBOX_PUBLISHERS": {"default": {"BACKEND": "django_broadcaster.backends.LocalBackend"}},
    "OUTBOX_ROUTES": None,
    "OUTBOX_JSON_ENCODER": None,
    "OUTBOX_REQUIRE_TRANSACTION": False,
    "OUTBOX_RETENTION": timedelta(days=7),
    "OUTBOX_ARCHIVE": None,
    "OUTBOX_TIME_PARTITIONS": None,
    "OUTBOX_INBOX_RETENTION": timedelta(days=30),
    "OUTBOX_HISTORY_RETENTION": timedelta(days=7),
    "OUTBOX_BATCH_SIZE": 500,
    "OUTBOX_BATCH_BYTES": 16_000_000,
    "OUTBOX_POLL_INTERVAL": 1.0,
    "OUTBOX_MAX_RETRIES": 3,
    "OUTBOX_NOTIFY": True,
    "OUTBOX_PARTITIONS": 64,
    "OUTBOX_LEASE_SECONDS": 15.0,
    "OUTBOX_SHUTDOWN_TIMEOUT": 30.0,
    "OUTBOX_MAX_LAG_SECONDS": 60.0,
    "OUTBOX_MAX_RETRY_AGE_SECONDS": 3600.0,
    "OUTBOX_FAILING_RATIO": 0.5,
    "OUTBOX_FAILING_ATTEMPTS": 10,
    "OUTBOX_FAILING_MINUTES": 5,
    "OUTBOX_STALL_SECONDS": 120.0,
    "OUTBOX_MAX_CRASHES": 3,
    "OUTBOX_CONSUMERS": {},
    "OUTBOX_RETRY": {},
    "OUTBOX_CIRCUIT": {},
    "OUTBOX_REDACTOR": None,
    "OUTBOX_ENCRYPTION_KEYS": [],
}
"""What a project gets that sets nothing."""


def attribute(name: str) -> Any:
    """The value that the package sees."""
    return getattr(conf, name.removeprefix("OUTBOX_"))


def test_every_setting_has_its_default_and_a_meaning() -> None:
    """The reference lists all settings, in their order, each with a sentence about it."""
    assert {name: setting.default for name, setting in all_settings().items()} == DEFAULTS
    assert all(setting.meaning.endswith(".") for setting in all_settings().values())


@pytest.mark.parametrize("name", DEFAULTS)
def test_default_is_what_a_project_gets_that_sets_nothing(name: str) -> None:
    """A setting that is not there has its default, and the checks have nothing to say."""
    with override_settings():
        for each in DEFAULTS:
            if hasattr(settings, each):
                delattr(settings, each)
        assert attribute(name) == DEFAULTS[name]
        assert run_checks(tags=[checks.TAG]) == []


@pytest.mark.parametrize("name", DEFAULTS)
def test_setting_is_read_at_access(name: str) -> None:
    """A changed setting counts from then on, and no longer than it is there."""
    before, value = attribute(name), object()
    with override_settings(**{name: value}):
        assert attribute(name) is value
    assert attribute(name) == before


@pytest.mark.parametrize(
    "code",
    [
        "assert conf.PUBLISHERS['default']['BACKEND'].endswith('LocMemBackend')",
        "settings.configure(OUTBOX_BATCH_SIZE=7); assert conf.BATCH_SIZE == 7",
        "settings.configure(); assert conf.BATCH_SIZE == 500",
    ],
)
def test_first_look_loads_the_settings(code: str) -> None:
    """Before anybody has asked for a setting, ours are those of the project all the same."""
    beginning = "from django.conf import settings; from django_broadcaster.conf import conf"
    subprocess.run(
        [sys.executable, "-c", f"{beginning}; assert not settings.configured; {code}"],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
        check=True,
        cwd=ROOT,
    )


def test_default_backend_runs_without_a_broker() -> None:
    """Without OUTBOX_PUBLISHERS events go to the handlers of the project itself."""
    with override_settings():
        del settings.OUTBOX_PUBLISHERS
        publisher._load_backends()
        assert publisher._get_default_backend() == "default"
        assert publisher.get_backend_health() == {"default": True}


def test_setting_is_named_after_its_attribute() -> None:
    """`OUTBOX_` and the attribute's name make the name of the setting."""

    class Own:
        COLOUR: Setting[str] = Setting("red", "A colour.", id="E999")

    assert Own().COLOUR == "red"
    with override_settings(OUTBOX_COLOUR="blue"):
        assert Own().COLOUR == "blue"
