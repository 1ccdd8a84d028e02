"""Events with the extension `expirytime`: not sent once it has passed."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from django_broadcaster.exceptions import InvalidEvent
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from tests.support.backends import Script
from tests.support.events import publish, row, statuses

from .conftest import Join, drain


def test_an_expired_event_is_not_sent_and_marked_so(
    database: str, scripted: Script, join: Join
) -> None:
    """It is cancelled with the reason, others of its key go on, and no retry is spent."""
    moment = timezone.now() - timedelta(seconds=1)
    publish("a1", using=database)
    publish("a2", using=database, extensions={"expirytime": moment})
    publish("a3", using=database)
    drain(join())
    assert scripted.arrived == ["a1", "a3"]
    assert statuses(database) == {"a1": "published", "a2": "cancelled", "a3": "published"}
    event = row("a2", database)
    assert (event.retry_count, event.published_at) == (0, None)
    assert event.last_error.startswith("Expired: ")


def test_an_event_is_sent_before_it_expires(database: str, scripted: Script, join: Join) -> None:
    """It arrives with its attribute."""
    moment = timezone.now() + timedelta(hours=1)
    publish("a1", using=database, extensions={"expirytime": moment})
    drain(join())
    assert scripted.arrived == ["a1"]
    extensions = scripted.messages[0].extensions
    assert extensions["expirytime"] == moment.isoformat().replace("+00:00", "Z")


def test_an_event_may_expire_while_it_waits_for_a_retry(
    database: str, scripted: Script, join: Join
) -> None:
    """Its key goes on without it."""
    moment = timezone.now() + timedelta(hours=1)
    publish("a1", using=database, extensions={"expirytime": moment})
    publish("a2", using=database)
    rows = OutboxEvent.objects.using(database)
    past = (timezone.now() - timedelta(hours=1)).isoformat()
    rows.filter(subject="a1").update(
        status="retry", scheduled_at=timezone.now(), extensions={"expirytime": past}
    )
    rows.filter(subject="a2").update(status="blocked")
    drain(join())
    assert statuses(database) == {"a1": "cancelled", "a2": "published"}


@pytest.mark.parametrize("extensions", [{"expirytime": "soon"}, ["expirytime"], "expirytime"])
def test_an_expiry_that_nobody_can_read_stops_nothing(
    database: str, scripted: Script, join: Join, extensions: object
) -> None:
    """A row that was written by hand, with something else in it, keeps no other from going."""
    publish("a1", "b1", using=database)
    OutboxEvent.objects.using(database).filter(subject="a1").update(extensions=extensions)
    drain(join())
    assert "b1" in scripted.arrived
    assert row("a1", database).status == ("published" if type(extensions) is dict else "retry")


def test_an_expiry_is_a_moment() -> None:
    """At the publish call, anything else than a time with its zone is an error."""
    with pytest.raises(InvalidEvent, match="'expirytime' must be a datetime or RFC 3339 text"):
        publisher.publish_event("order.placed", "/shop", extensions={"expirytime": "soon"})
