"""A backend whose deliveries fail is failing wherever somebody looks, and says why."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.core.management import call_command
from django.test import RequestFactory
from django.utils import timezone

from django_broadcaster.backends.handler import backends
from django_broadcaster.dashboard.state import state
from django_broadcaster.events import CloudEvent
from django_broadcaster.instrumentation import health_file, prometheus
from django_broadcaster.instrumentation.health import outbox_health
from django_broadcaster.instrumentation.monitors import Watch, watching
from django_broadcaster.management.commands import outbox_status
from django_broadcaster.models import OutboxEvent
from django_broadcaster.registry import event_registry
from django_broadcaster.relay import history
from django_broadcaster.relay.worker import Worker
from django_broadcaster.store import State, judgements
from tests.relay.conftest import working
from tests.support.events import publish
from tests.support.waiting import wait_until
from tests.support.webhook_server import Reply, webhook_server

if TYPE_CHECKING:
    from pytest_django import Settings

WAIT = 30.0  # seconds, at the most

Mend = Callable[[], None]
"""Let what failed succeed."""


@contextmanager
def broken_endpoint() -> Iterator[tuple[dict[str, Any], Mend]]:
    """A webhook endpoint that answers 500 until it is mended."""
    with webhook_server() as server:
        answers = Reply(500)
        server.answer = lambda request: answers
        options = {"url": server.url, "allow_private": True}
        path = "django_broadcaster.backends.WebhookBackend"

        def mend() -> None:
            nonlocal answers
            answers = Reply(204)

        yield {"BACKEND": path, "OPTIONS": options}, mend


@contextmanager
def broken_handler() -> Iterator[tuple[dict[str, Any], Mend]]:
    """A handler that raises an exception until it is mended."""
    is_broken = True

    def bill(event: CloudEvent) -> None:
        if is_broken:
            raise RuntimeError("the ledger answered 500")

    def mend() -> None:
        nonlocal is_broken
        is_broken = False

    event_registry.register("order.placed", name="tests.bill")(bill)
    try:
        yield {"BACKEND": "django_broadcaster.backends.LocalBackend"}, mend
    finally:
        event_registry.unregister("tests.bill")


@pytest.mark.parametrize("broken", [broken_endpoint, broken_handler])
def test_deliveries_that_fail_are_seen_everywhere(
    routed: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    broken: Any,
) -> None:
    """In the dashboard, the health, the status and the metrics; and so is that they succeed."""
    monkeypatch.setattr(history, "WRITE_SECONDS", 0.1)
    settings.OUTBOX_RETRY = {"initial": 60.0, "jitter": 0.0}
    with broken() as (configured, mend):
        settings.OUTBOX_PUBLISHERS = {"default": configured}
        publish(*(f"-{number}" for number in range(10)), using=routed)
        with working(routed) as running:
            wait_until(lambda: found(routed) == State.FAILING, WAIT, "the state 'failing'")
            seen_in_dashboard(routed)
            seen_in_health(routed)
            seen_in_health_file(running.worker, routed, tmp_path / "health")
            seen_in_status(routed)
            seen_in_metrics(routed)
            mend()
            OutboxEvent.objects.using(routed).update(scheduled_at=timezone.now())
            wait_until(lambda: is_done(routed), WAIT, "the deliveries")
            settings.OUTBOX_FAILING_RATIO = 1  # instead of five minutes in which nothing fails
            wait_until(lambda: found(routed) == State.UP_TO_DATE, WAIT, "the state 'up to date'")
            assert outbox_health(routed).is_ready


def found(using: str) -> State:
    """Return the state of the backend."""
    (judgement,) = judgements(using, ["default"], backends.aliases(), {})
    return judgement.state


def is_done(using: str) -> bool:
    """Return True if nothing waits."""
    (judgement,) = judgements(using, ["default"], backends.aliases(), {})
    return judgement.overview.undelivered == 0


def seen_in_dashboard(using: str) -> None:
    """The card is red, with the reason and the error."""
    (card,) = state(using, ["default"])["backends"]
    assert (card["status"]["text"], card["status"]["level"]) == ("failing", "red")
    assert card["needs_attention"]
    assert "attempts in the last 5 min failed" in card["status"]["reason"]
    assert "500" in card["status"]["reason"]
    assert card["oldest_waiting"] is not None


def seen_in_health(using: str) -> None:
    """The check `failures` fails, without the error."""
    (check,) = outbox_health(using).failing
    assert (check.name, check.backend) == ("failures", "default")
    assert "attempts in the last 5 min failed" in check.detail
    assert "500" not in check.detail


def seen_in_health_file(worker: Worker, using: str, path: Path) -> None:
    """The file of the relay has the same check, and the relay is live all the same."""
    with watching(worker, Watch(database=using, backends=["default"], health_file=path)):
        wait_until(lambda: path.exists() and health_file.read(path).failing, WAIT, "the file")
        found = health_file.read(path)
    assert found.is_live
    (check,) = found.failing
    assert (check.name, check.backend) == ("failures", "default")


def seen_in_status(using: str) -> None:
    """The state is a word in the table, with its reason below, and an exit status for a probe."""
    out = io.StringIO()
    with pytest.raises(SystemExit) as end:
        call_command("outbox_status", "--max-failed=0", "--database", using, stdout=out)
    assert end.value.code == outbox_status.LATE
    _, row, _, why, *_ = out.getvalue().splitlines()
    assert row.endswith(" failing")
    assert why.startswith("default: ")
    assert "500" in why


def seen_in_metrics(using: str) -> None:
    """One state is 1, and the others are 0."""
    text = prometheus.metrics(RequestFactory().get("/metrics")).content.decode()
    lines = [line for line in text.splitlines() if line.startswith("outbox_backend_state{")]
    assert len(lines) == len(State)
    (line,) = (line for line in lines if line.endswith(" 1.0"))
    assert line == 'outbox_backend_state{backend="default",state="failing"} 1.0'
