"""The outbox as a whole is judged by its database: relays that live, and events that are late."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from django.test import RequestFactory
from django.utils import timezone

from django_broadcaster.instrumentation.health import health
from django_broadcaster.models import OutboxBackendState, OutboxEvent, OutboxRelay
from django_broadcaster.relay.loop import DeliveryLoop
from django_broadcaster.store import pause
from tests.support.events import publish
from tools.launch import free_port

if TYPE_CHECKING:
    from pytest_django import Settings

Found = dict[tuple[str, str | None], dict[str, Any]]


def by_name(checks: list[dict[str, Any]]) -> Found:
    """Return checks by their names and backends."""
    return {(check["name"], check.get("backend")): check for check in checks}


def asked(*arguments: str) -> tuple[int, Found]:
    """Return the exit status of `outbox_health`, and its checks."""
    out = io.StringIO()
    status: Any = 0
    try:
        call_command("outbox_health", "--json", *arguments, stdout=out)
    except SystemExit as end:
        status = end.code
    return status, by_name(json.loads(out.getvalue())["checks"])


def seen() -> tuple[int, Found]:
    """Return the status of the view's answer, and its checks."""
    answer = health(RequestFactory().get("/health"))
    return answer.status_code, by_name(json.loads(answer.content)["checks"])


def late(database: str, seconds: float = 90) -> None:
    """Let an event have been due for so long."""
    publish("a1", using=database)
    due = timezone.now() - timedelta(seconds=seconds)
    OutboxEvent.objects.using(database).update(scheduled_at=due)


def test_an_outbox_with_a_living_relay_and_nothing_late_is_well(routed: str) -> None:
    """Command and view agree, and say how many relays there are."""
    with DeliveryLoop(routed, "default") as loop:
        loop.turn(10)
        assert (asked()[0], seen()[0]) == (0, 200)
        assert asked()[1] == seen()[1]
        assert seen()[1]["relays", "default"]["detail"] == "1"


def test_a_relay_whose_heart_stopped_does_not_count(routed: str) -> None:
    """By the database's clock: its row stands, but it and its partitions are as good as gone."""
    with DeliveryLoop(routed, "default") as loop:
        loop.turn(10)
        stale = timezone.now() - timedelta(seconds=60)
        OutboxRelay.objects.using(routed).update(heartbeat_at=stale)
        status, found = asked()
        assert status == 1
        relays = found["relays", "default"]
        assert (relays["ok"], relays["detail"]) == (False, "0, 64 partitions without a relay")


def test_partitions_that_nobody_has_yet_are_shown_and_fail_nothing(routed: str) -> None:
    """For a moment there are some whenever a relay comes or goes."""
    with DeliveryLoop(routed, "default"):
        status, found = asked()
    assert (status, found["relays", "default"]["detail"]) == (0, "1, 64 partitions without a relay")


def test_events_that_are_late_are_no_secret(routed: str, settings: Settings) -> None:
    """Beyond OUTBOX_MAX_LAG_SECONDS, or what was asked for, the outbox is unwell."""
    late(routed)
    with DeliveryLoop(routed, "default"):
        assert (asked()[0], seen()[0]) == (1, 503)
        assert not seen()[1]["lag", "default"]["ok"]
        assert asked("--max-lag", "120")[0] == 0
        settings.OUTBOX_MAX_LAG_SECONDS = 120
        assert (asked()[0], seen()[0]) == (0, 200)


def test_an_event_that_keeps_failing_is_no_secret(routed: str, settings: Settings) -> None:
    """Between its attempts nothing is due; beyond the bound of its age the outbox is unwell."""
    publish("a1", "a2", using=routed)
    rows = OutboxEvent.objects.using(routed)
    rows.update(created_at=timezone.now() - timedelta(hours=2))
    later = timezone.now() + timedelta(minutes=1)
    rows.filter(subject="a1").update(status="retry", scheduled_at=later)
    rows.filter(subject="a2").update(status="blocked")
    with DeliveryLoop(routed, "default"):
        assert (asked()[0], seen()[0]) == (1, 503)
        assert seen()[1]["lag", "default"]["ok"]
        assert not seen()[1]["retry", "default"]["ok"]
        assert asked("--max-retry-age", "10800")[0] == 0
        settings.OUTBOX_MAX_RETRY_AGE_SECONDS = 10_800
        assert (asked()[0], seen()[0]) == (0, 200)


def test_events_whose_backend_was_taken_out_are_no_secret(routed: str, settings: Settings) -> None:
    """No relay delivers them, so the outbox is unwell until somebody puts them away."""
    publish("a1", using=routed)
    with DeliveryLoop(routed, "default"):
        OutboxEvent.objects.using(routed).update(publisher_backend="audit")
        status, found = asked()
        assert (status, seen()[0]) == (1, 503)
        assert not found["settings", "audit"]["ok"]
        assert asked("--backend", "default")[0] == 0
        OutboxEvent.objects.using(routed).update(status="failed")
        assert (asked()[0], seen()[0]) == (0, 200)


def test_a_paused_backend_is_well(routed: str) -> None:
    """Its relays may be gone and its events late: an operator wanted it so.

    Who that was, and why, is not told to whoever asks.
    """
    late(routed)
    pause(
        OutboxBackendState.objects.using(routed).all(), "default", by="ada: the customer Acme sues"
    )
    for status, found in (asked(), seen()):
        assert status in (0, 200)
        assert found["relays", "default"]["detail"] == "0, paused"
        assert "ada" not in str(found)


def test_only_the_backends_that_were_asked_for_are_judged(routed: str, settings: Settings) -> None:
    """One backend's trouble is not another's."""
    locmem = {"BACKEND": "django_broadcaster.backends.LocMemBackend"}
    settings.OUTBOX_PUBLISHERS = {"default": locmem, "other": locmem}
    with DeliveryLoop(routed, "other"):
        assert asked()[0] == 1
        status, found = asked("--backend", "other")
    assert (status, ("relays", "default") in found) == (0, False)


def test_a_database_that_can_not_be_asked_is_said(
    committing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The view answers all the same, and the command's status is 2: nobody knows."""
    connection = connections["default"]
    if connection.vendor == "sqlite":
        monkeypatch.setattr(OutboxRelay._meta, "db_table", "gone")
    else:
        connection.close()
        monkeypatch.setitem(connection.settings_dict, "PORT", str(free_port()))
    try:
        assert (asked()[0], seen()[0]) == (2, 503)
        ((name, _),) = seen()[1]
        assert name == "database"
    finally:
        monkeypatch.undo()
        connection.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backend", "nope"], "OUTBOX_PUBLISHERS has 'default'"),
        (["--live"], "--live needs --file"),
        (["--database", "nope"], "DATABASES has 'default'"),
        (["--database", "a\0"], "must be text that a database can store"),
    ],
)
def test_a_wrong_argument_is_named(committing: None, arguments: list[str], words: str) -> None:
    """With status 2, not to be taken for an outbox that is unwell."""
    with pytest.raises(CommandError, match=words) as caught:
        call_command("outbox_health", *arguments)
    assert caught.value.returncode == 2


@pytest.mark.parametrize(
    "wrong", [{"OUTBOX_PUBLISHERS": None}, {"OUTBOX_LEASE_SECONDS": "x"}], ids=str
)
def test_wrong_settings_are_no_failed_check(routed: str, settings: Settings, wrong: Any) -> None:
    """A probe skips the checks of the settings, and must not take a traceback for unwell."""
    for name, value in wrong.items():
        setattr(settings, name, value)
    with pytest.raises(CommandError, match=r"Invalid settings .*; run manage\.py") as caught:
        call_command("outbox_health")
    assert caught.value.returncode == 2


def test_people_get_a_table(routed: str) -> None:
    """A line for each check, what failed in capitals."""
    out = io.StringIO()
    with pytest.raises(SystemExit):
        call_command("outbox_health", stdout=out)
    title, *lines = out.getvalue().splitlines()
    assert title.split() == ["check", "backend", "process", "ok", "detail"]
    assert [line.split()[:4] for line in lines][1] == ["relays", "default", "-", "NO"]
