"""Backends that are given events: a dictionary of options, `publish(event)`, True or False."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import redis
from asgiref.sync import async_to_sync
from django.utils import timezone

from django_broadcaster.backends import (
    LocMemBackend,
    MessageBackend,
    PublisherBackend,
    RedisStreamBackend,
    locmem,
)
from django_broadcaster.backends.event_backend import EventBackend
from django_broadcaster.backends.handler import backends
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    BackendUnavailable,
    Held,
    TransientError,
)
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.testing import BackendContract, make_message
from tests.relay.conftest import Join, drain
from tests.support.events import publish, statuses
from tests.support.redis_server import shared_url

if TYPE_CHECKING:
    from pytest_django import Settings

HERE = "tests.backends.test_event_backend"


class Shelf(PublisherBackend):
    """Keeps what it is given; `config["answers"]` says what becomes of an event, by its subject."""

    kept: list[OutboxEvent] = []
    is_healthy = True

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def publish(self, event: OutboxEvent) -> bool:
        """Keep the event, unless it is to fail."""
        answers = self.config.get("answers", {}).get(event.subject, [])
        answer = answers.pop(0) if answers else True
        if isinstance(answer, Exception):
            raise answer
        if answer:
            self.kept.append(event)
        return bool(answer)

    def health_check(self) -> bool:
        """Say how it is."""
        return self.is_healthy


class Plain(PublisherBackend):
    """Has no constructor of its own."""

    def publish(self, event: OutboxEvent) -> bool:
        """Accept everything."""
        return True

    def health_check(self) -> bool:
        """Raise, as one does whose client is missing."""
        raise OSError("no client")


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    Shelf.kept, Shelf.is_healthy = [], True
    yield
    for alias in ("my_custom", "default"):
        if alias in backends._by_hand:
            backends.remove(alias)


class TestEventBackend(BackendContract):
    """Read back from the shelf."""

    per_message_failure = False
    names_unknown = False
    config = {"anything": {"is": "accepted"}}

    def make_backend(self, *, alias: str, **options: Any) -> MessageBackend:
        return EventBackend(wrapped=Shelf(options), alias=alias)

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        return [event.to_cloud_event() for event in Shelf.kept]


def test_event_has_the_documented_attributes() -> None:
    """A backend reads of an event what it read in version 0.1, the CloudEvents id included."""
    message = make_message(
        id="5b0c", event_type="order.placed", source="/shop", subject="7", data={"a": 1},
        data_schema="https://example.com/s", partition_key="k", config={"region": "eu"}, attempt=3,
    )  # fmt: skip
    EventBackend(wrapped=Shelf({}), alias="audit").send(message)
    (event,) = Shelf.kept
    assert isinstance(event, OutboxEvent)
    assert (event.id, event.event_id) == ("5b0c", "5b0c")
    assert (event.event_type, event.source, event.subject) == ("order.placed", "/shop", "7")
    assert (event.data, event.data_content_type) == ({"a": 1}, "application/json")
    assert (event.data_schema, event.spec_version) == ("https://example.com/s", "1.0")
    assert (event.publisher_backend, event.publisher_config) == ("audit", {"region": "eu"})
    assert (event.status, event.retry_count, event.last_error) == ("pending", 2, "")
    assert event.created_at == message.time
    assert event.to_cloud_event()["id"] == "5b0c"
    assert str(event) == "order.placed - 5b0c"


class Meddling(Shelf):
    """Does something to the event that it is given, by its subject."""

    def publish(self, event: OutboxEvent) -> bool:
        """Call what a row of the outbox has."""
        CALLS[event.subject](event)
        return super().publish(event)


CALLS: dict[str, Callable[[OutboxEvent], object]] = {
    "save": lambda event: event.save(),
    "some": lambda event: event.save(update_fields=["publisher_config"]),
    "asave": lambda event: async_to_sync(event.asave)(),
    "delete": lambda event: event.delete(),
    "refresh": lambda event: event.refresh_from_db(),
    "failed": lambda event: event.mark_as_failed("bad address"),
    "published": lambda event: event.mark_as_published(),
    "retry": lambda event: event.increment_retry("once more"),
}


@pytest.mark.parametrize("call", CALLS)
def test_event_that_a_backend_is_given_reaches_no_row(
    database: str, settings: Settings, join: Join, call: str
) -> None:
    """A backend's call that would change a row fails the attempt, and changes no other row."""
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": f"{HERE}.Meddling"}}
    later = timezone.now() + timedelta(days=1)
    other = publisher.publish_event("invoice.sent", "/shop", scheduled_at=later, using=database)
    publisher.publish_event(
        "a", "/shop", None, call, event_id=other.pk, max_retries=0, using=database
    )
    rows = OutboxEvent.objects.using(database)
    before = rows.filter(pk=other.pk).values().get()
    drain(join())
    assert rows.filter(pk=other.pk).values().get() == before
    event = rows.get(subject=call)
    assert event.status == "failed"
    assert "the relay updates its row" in event.last_error
    assert rows.count() == 2


def test_event_that_a_backend_is_given_can_be_copied() -> None:
    """It can be sent to another process, or be copied."""
    EventBackend(wrapped=Shelf({}), alias="audit").send(make_message(id="5b0c"))
    (event,) = Shelf.kept
    pickled = pickle.loads(pickle.dumps(event))  # noqa: S301
    for copied in (deepcopy(event), pickled):
        assert copied.to_cloud_event() == event.to_cloud_event()


@pytest.mark.parametrize(
    ("answer", "is_healthy", "kind"),
    [
        (False, True, TransientError),
        (None, True, TransientError),
        (False, False, BackendUnavailable),
        (OSError("gone"), False, BackendUnavailable),
        (ValueError("odd"), True, ValueError),
    ],
)
def test_false_and_exceptions_are_failures(
    answer: Any, is_healthy: bool, kind: type[Exception]
) -> None:
    """A failure of a backend that is not healthy is an outage, any other one of the event."""
    Shelf.is_healthy = is_healthy
    backend = EventBackend(wrapped=Shelf({"answers": {"7": [answer]}}), alias="default")
    with pytest.raises(kind):
        backend.send(make_message(subject="7"))


def test_later_events_of_a_failed_key_are_held() -> None:
    """The others of the batch are published."""
    backend = EventBackend(wrapped=Shelf({"answers": {"a1": [False]}}), alias="default")
    messages = [make_message(subject=name, partition_key=name[0]) for name in ("a1", "b1", "a2")]
    outcomes = backend.send_batch(messages)
    assert [type(outcome) for outcome in outcomes] == [TransientError, type(None), Held]


def test_dotted_path_is_loaded_with_its_options(settings: Settings) -> None:
    """OUTBOX_PUBLISHERS names it like every other, and its OPTIONS are its dictionary."""
    settings.OUTBOX_PUBLISHERS = {"audit": {"BACKEND": f"{HERE}.Shelf", "OPTIONS": {"a": 1}}}
    found = publisher._backends["audit"]
    assert isinstance(found, Shelf)
    assert found.config == {"a": 1}
    assert publisher.get_backend_health() == {"audit": True}
    settings.OUTBOX_PUBLISHERS = {"plain": {"BACKEND": f"{HERE}.Plain", "OPTIONS": {"b": 2}}}
    plain = publisher._backends["plain"]
    assert isinstance(plain, Plain)
    assert (plain.config, plain.get_name()) == ({"b": 2}, "Plain")
    assert publisher.get_backend_health() == {"plain": False}


def test_wrong_options_name_setting_and_alias(settings: Settings) -> None:
    """What the constructor refuses is told with the place in the settings."""
    settings.OUTBOX_PUBLISHERS = {"audit": {"BACKEND": f"{HERE}.Shelf", "OPTIONS": 5}}
    with pytest.raises(BackendConfigurationError, match=r"OUTBOX_PUBLISHERS\['audit'\]"):
        publisher._load_backends()


def test_relay_delivers_with_order_retries_and_dead_letters(
    database: str, settings: Settings, join: Join
) -> None:
    """False spends a retry and holds the key; what fails for good is a dead letter."""
    answers = {"a1": [False, OSError("once"), True], "b1": [False] * 3, "c1": []}
    settings.OUTBOX_RETRY = {"initial": 0.01, "maximum": 0.01, "jitter": 0.0}
    settings.OUTBOX_PUBLISHERS = {
        "default": {"BACKEND": f"{HERE}.Shelf", "OPTIONS": {"answers": answers}}
    }
    publish("a1", "a2", "b1", "c1", "b2", using=database, max_retries=2)
    loop = join()
    while set(statuses(database).values()) - {"published", "failed"}:
        drain(loop)
    assert statuses(database) == {
        "a1": "published", "a2": "published", "b1": "failed", "b2": "published", "c1": "published",
    }  # fmt: skip
    names = [event.subject for event in Shelf.kept]
    assert names.index("a1") < names.index("a2")
    assert sorted(names) == ["a1", "a2", "b2", "c1"]
    dead = OutboxEvent.objects.using(database).get(subject="b1")
    assert "Shelf.publish() returned False" in dead.last_error


def test_backend_that_is_not_healthy_spends_no_retry(
    database: str, settings: Settings, join: Join
) -> None:
    """An outage costs nothing, as with every other backend."""
    settings.OUTBOX_PUBLISHERS = {
        "default": {"BACKEND": f"{HERE}.Shelf", "OPTIONS": {"answers": {"a1": [False]}}}
    }
    Shelf.is_healthy = False
    publish("a1", using=database, max_retries=0)
    assert join().turn(100).unavailable
    event = OutboxEvent.objects.using(database).get()
    assert (event.status, event.retry_count) == ("pending", 0)


class Quoting(Shelf):
    """Fails with the event in its words."""

    def publish(self, event: OutboxEvent) -> Any:
        """Raise, or return something that is false and shows the event."""
        if event.subject == "a1":
            raise ValueError(f"can't send {event.data}")
        return Falsy(event.data)


class Falsy(dict[str, Any]):
    """Is false, and shows what it has."""

    def __bool__(self) -> bool:
        return False


@pytest.mark.parametrize("is_healthy", [True, False])
@pytest.mark.parametrize("subject", ["a1", "b1"], ids=["raises", "returns"])
def test_error_that_quotes_the_event_is_not_logged(
    database: str,
    settings: Settings,
    join: Join,
    caplog: pytest.LogCaptureFixture,
    subject: str,
    is_healthy: bool,
) -> None:
    """The log has the class of the error, or of what was returned, in place of its text."""
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": f"{HERE}.Quoting"}}
    Shelf.is_healthy = is_healthy
    event = CloudEvent("order.placed", "/shop", {"card": "4711-0815"}, subject)
    publisher.publish_cloud_event(event, using=database)
    caplog.set_level("DEBUG")
    join().turn(100)
    # The texts of errors have a logger of their own, which is off unless its level is DEBUG.
    texts = "django_broadcaster.relay.errors"
    logged = [record.getMessage() for record in caplog.records if record.name != texts]
    assert logged
    assert "4711-0815" not in "\n".join(logged)
    if is_healthy:
        assert any("ValueError" in line or "TransientError" in line for line in logged)
    else:
        assert "health_check() failed" in caplog.text


def test_instance_that_is_put_in_by_hand_is_used(database: str, join: Join) -> None:
    """`publisher._backends[alias] = instance` makes an alias to publish to and deliver by."""
    mine = Shelf({})
    publisher._backends["my_custom"] = mine
    assert publisher._backends["my_custom"] is mine
    assert set(publisher._backends) == {"default", "my_custom"}
    assert publisher.get_backend_health()["my_custom"] is True
    publish("a1", using=database, backend="my_custom")
    drain(join("my_custom"))
    assert [event.subject for event in Shelf.kept] == ["a1"]
    del publisher._backends["my_custom"]
    assert "my_custom" not in publisher._backends
    with pytest.raises(KeyError):
        publisher._backends["my_custom"]


@pytest.mark.parametrize("backend", [Shelf, LocMemBackend])
def test_instance_has_one_alias(backend: type[PublisherBackend]) -> None:
    """Each alias has a relay thread of its own, so that a shared instance is refused."""
    mine = backend({})
    publisher._backends["my_custom"] = mine
    publisher._backends["my_custom"] = mine
    with pytest.raises(BackendConfigurationError, match="in use for the alias 'my_custom'"):
        publisher._backends["default"] = mine
    assert publisher._backends["default"] is not mine


def test_instance_takes_the_place_of_the_built_in_default(
    database: str, settings: Settings
) -> None:
    """Without OUTBOX_PUBLISHERS, events go to the backend that a project puts in, as in 0.1."""
    del settings.OUTBOX_PUBLISHERS
    assert set(publisher._backends) == {"default"}
    publisher._backends["my_custom"] = Shelf({})
    assert set(publisher._backends) == {"my_custom"}
    (event,) = publish("a1", using=database)
    assert event.publisher_backend == "my_custom"
    del publisher._backends["my_custom"]
    assert set(publisher._backends) == {"default"}


def test_instance_takes_the_place_of_a_configured_one(settings: Settings) -> None:
    """It stays when settings change, and the configured one is back when it is taken out."""
    mine = LocMemBackend({})
    publisher._backends["default"] = mine
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": f"{HERE}.Plain"}}
    assert publisher._backends["default"] is mine
    del publisher._backends["default"]
    assert isinstance(publisher._backends["default"], Plain)


class Labelled(RedisStreamBackend):
    """Extends a backend that there is, as code of version 0.1 does."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.seen: list[str] = []

    def publish(self, event: OutboxEvent) -> bool:
        """Publish, and note what was published."""
        self.seen.append(event.subject)
        return super().publish(event)


def test_subclass_of_the_redis_backend_has_its_way(
    database: str, settings: Settings, join: Join
) -> None:
    """Its constructor takes the dictionary, and its `publish` delivers each event."""
    url, stream = urlsplit(shared_url()), f"test-{uuid4()}"
    options = {"host": url.hostname, "port": url.port, "stream_name": stream, "max_len": None}
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": f"{HERE}.Labelled", "OPTIONS": options}}
    publish("a1", "a2", using=database)
    loop = join()
    drain(loop)
    assert loop.broker.backend.wrapped.seen == ["a1", "a2"]  # type: ignore[attr-defined]
    with redis.Redis.from_url(shared_url()) as client:
        assert client.xlen(stream) == 2
        client.delete(stream)


def test_all_instances_may_be_put_in_at_once() -> None:
    """`publisher._backends = {...}` takes the place of what was put in before."""
    publisher._backends = {"my_custom": Shelf({})}
    publisher._backends = {"default": Plain()}
    assert set(publisher._backends) == {"default"}
    assert isinstance(publisher._backends["default"], Plain)


def test_backend_of_messages_takes_a_dictionary_and_publishes_an_event(database: str) -> None:
    """`RedisStreamBackend({...}).publish(event)` is the documented form of every backend."""
    locmem.clear()
    (event,) = publish("a1", using=database)
    backend = LocMemBackend({"alias": "tests"})
    assert isinstance(backend, PublisherBackend)
    assert backend.get_name() == "LocMemBackend"
    assert backend.publish(event) is True
    assert [message.subject for message in locmem.outbox("tests")] == ["a1"]
    locmem.clear()
