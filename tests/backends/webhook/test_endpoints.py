"""Endpoints in trouble: what is written about them, when they are disabled, how they come back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.db import DatabaseError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_broadcaster import endpoints as endpoints_module
from django_broadcaster.backends import WebhookBackend
from django_broadcaster.backends.event_backend import EventBackend
from django_broadcaster.exceptions import BackendUnavailable, Rejected, TransientError
from django_broadcaster.models import OutboxWebhookEndpoint
from django_broadcaster.relay.endpoint_book import attach_endpoints
from django_broadcaster.signals import endpoint_disabled
from tests.support.batches import kinds, numbers
from tests.support.redis_server import free_port
from tests.support.webhook_server import Reply, WebhookServer

from .conftest import MakeBackend
from .helpers import to

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.django_db

DAY = 86_400.0


@pytest.fixture(autouse=True)
def _always_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Believe nothing that was read before, so that no test has to wait."""
    monkeypatch.setattr(endpoints_module, "REREAD_SECONDS", 0.0)


@pytest.fixture
def disabled() -> Iterator[list[OutboxWebhookEndpoint]]:
    """The endpoints for which the signal was sent."""
    heard: list[OutboxWebhookEndpoint] = []

    def listen(sender: type, endpoint: OutboxWebhookEndpoint, **_: Any) -> None:
        assert sender is OutboxWebhookEndpoint
        heard.append(endpoint)

    endpoint_disabled.connect(listen)
    yield heard
    endpoint_disabled.disconnect(listen)


@pytest.fixture
def many(make: MakeBackend) -> Callable[..., WebhookBackend]:
    """Make backends whose events name their endpoints."""
    return lambda **options: make(event_urls=True, allow_http=True, **options)


def age(seconds: float) -> None:
    """Let the trouble of every endpoint have begun so long ago."""
    OutboxWebhookEndpoint.objects.update(failing_since=timezone.now() - timedelta(seconds=seconds))


def test_endpoint_that_works_has_no_row(many: Any, server: WebhookServer) -> None:
    """One that was never in trouble is written about nowhere, and a batch costs one look."""
    backend = many()
    with CaptureQueriesContext(connection) as queries:
        assert backend.send_batch([to(server.url) for _ in range(50)]) == [None] * 50
    assert len(queries) == 1
    assert not OutboxWebhookEndpoint.objects.exists()


def test_without_a_relay_nothing_is_written(server: WebhookServer) -> None:
    """A backend that a script uses neither reads nor writes about endpoints."""
    server.answer = lambda request: Reply(410)
    backend = WebhookBackend(alias="default", url=server.url, allow_private=True)
    with closing(backend), CaptureQueriesContext(connection) as queries:
        assert kinds(backend.send_batch(numbers(1))) == [BackendUnavailable]
    assert not queries.captured_queries


def test_relay_attaches_the_endpoints_to_a_backend_that_is_given_events(
    server: WebhookServer,
) -> None:
    """A webhook backend with a `publish` of its own knows what is disabled, too."""

    class Own(WebhookBackend):
        def publish(self, event: Any) -> bool:
            return super().publish(event)

    with closing(Own(alias="default", url=server.url, allow_private=True)) as backend:
        attach_endpoints(EventBackend(wrapped=backend, alias="default"))
        server.answer = lambda request: Reply(410)
        assert kinds(backend.send_batch(numbers(1))) == [BackendUnavailable]
    assert OutboxWebhookEndpoint.objects.get().disabled_at is not None


def test_looks_are_as_rare_as_they_may_be(
    many: Any, server: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read is believed for a while, for the endpoints that it was read for."""
    monkeypatch.setattr(endpoints_module, "REREAD_SECONDS", 60.0)
    backend = many()
    with CaptureQueriesContext(connection) as queries:
        for path in ("/a", "/a", "/b", "/b"):
            backend.send_batch([to(server.url + path)])
    assert len(queries) == 2


@pytest.mark.shows("410 and a time of failures disable, with a signal")
@pytest.mark.parametrize("only", [True, False])
def test_gone_disables_the_endpoint(
    make: MakeBackend, server: WebhookServer, disabled: list[OutboxWebhookEndpoint], only: bool
) -> None:
    """Behind a 410 nothing more is sent, by no relay; with an only endpoint its events wait."""
    server.answer = lambda request: Reply(410)
    options = {"url": server.url} if only else {"url": server.url, "event_urls": True}
    expected = BackendUnavailable if only else Rejected
    outcomes = make(**options, max_in_flight=1).send_batch(numbers(3))
    assert kinds(outcomes) == [expected] * 3
    assert len(server.requests) == 1
    server.answer = lambda request: Reply()
    again = make(**options)  # as another relay, or this one behind a restart
    outcomes = again.send_batch(numbers(2))
    assert kinds(outcomes) == [expected] * 2
    assert "is disabled since" in str(outcomes[0])
    assert "410 Gone" in str(outcomes[0])
    assert len(server.requests) == 1
    (row,) = disabled
    assert (row.url, row.backend) == (server.url, "default")
    assert row.last_error.splitlines()[0] == "answered 410 Gone"
    assert row.disabled_at is not None


def test_gone_concerns_no_other_endpoint(
    many: Any, make: MakeBackend, server: WebhookServer
) -> None:
    """Another path of the host, and the same URL of another backend, go on."""
    server.answer = lambda request: Reply(410 if request.target == "/a" else 204)
    backend = many()
    messages = [to(f"{server.url}{path}") for path in ("/a", "/b", "/a/", "/a?x=1")]
    assert kinds(backend.send_batch(messages)) == [Rejected, None, None, None]
    server.answer = lambda request: Reply()
    assert kinds(backend.send_batch(messages)) == [Rejected, None, None, None]
    elsewhere = many(alias="elsewhere")
    assert elsewhere.send_batch(messages) == [None] * 4


def test_endpoint_that_is_enabled_gets_its_events(many: Any, server: WebhookServer) -> None:
    """To delete the row is to enable it; the relay that disabled it notices by itself."""
    server.answer = lambda request: Reply(410)
    backend = many()
    backend.send_batch([to(server.url)])
    server.answer = lambda request: Reply()
    OutboxWebhookEndpoint.objects.all().delete()
    assert backend.send_batch([to(server.url)]) == [None]


@pytest.mark.shows("410 and a time of failures disable, with a signal")
def test_endpoint_is_disabled_after_a_time_of_failures(
    many: Any, server: WebhookServer, disabled: list[OutboxWebhookEndpoint]
) -> None:
    """It counts from the first failure behind the last success, over restarts of the relay."""
    server.answer = lambda request: Reply(500)
    assert kinds(many().send_batch([to(server.url)])) == [TransientError]
    age(5 * DAY - 60)
    assert kinds(many().send_batch([to(server.url)])) == [TransientError]
    assert not disabled
    age(5 * DAY + 1)
    assert kinds(many().send_batch([to(server.url)])) == [TransientError]
    assert [row.url for row in disabled] == [server.url]
    assert "500" in disabled[0].last_error
    assert "failing since" in disabled[0].last_error
    before = len(server.requests)
    assert kinds(many().send_batch([to(server.url)])) == [Rejected]
    assert len(server.requests) == before
    assert len(disabled) == 1, "the signal is sent once"


@pytest.mark.parametrize("status", [302, 400, 401, 404, 429, 500, 502, 503, 0])
def test_every_failure_of_an_endpoint_counts(
    many: Any, server: WebhookServer, disabled: list[OutboxWebhookEndpoint], status: int
) -> None:
    """Whatever it answers but a 2xx, or if it answers nothing at all."""
    server.answer = lambda request: Reply(status)
    url = server.url if status else f"http://127.0.0.1:{free_port()}"
    many().send_batch([to(url)])
    age(5 * DAY + 1)
    many().send_batch([to(url)])
    assert [row.url for row in disabled] == [url]


def test_success_ends_the_trouble(many: Any, server: WebhookServer) -> None:
    """One event that is delivered, and the time of failures begins anew."""
    backend = many()
    server.answer = lambda request: Reply(500)
    backend.send_batch([to(server.url)])
    assert OutboxWebhookEndpoint.objects.count() == 1
    server.answer = lambda request: Reply(500 if b'"bad"' in request.body else 204)
    backend.send_batch([to(server.url, data="bad"), to(server.url, data="good")])
    assert not OutboxWebhookEndpoint.objects.exists()


def test_failure_of_an_event_is_no_trouble_of_its_endpoint(
    many: Any, server: WebhookServer
) -> None:
    """An event that the endpoint finds too large says nothing about the endpoint."""
    server.answer = lambda request: Reply(413)
    assert kinds(many().send_batch([to(server.url)])) == [Rejected]
    assert not OutboxWebhookEndpoint.objects.exists()


def test_only_endpoint_is_disabled_by_no_time(
    make: MakeBackend, server: WebhookServer, disabled: list[OutboxWebhookEndpoint]
) -> None:
    """An outage costs nothing, however long; unless the settings say how long."""
    with server.away():
        make(url=server.url).send_batch(numbers(1))
        age(1000 * DAY)
        assert kinds(make(url=server.url).send_batch(numbers(1))) == [BackendUnavailable]
        assert not disabled
        make(url=server.url, disable_after=2 * DAY).send_batch(numbers(1))
        assert [row.url for row in disabled] == [server.url]


@pytest.mark.shows("410 and a time of failures disable, with a signal")
def test_two_relays_that_disable_at_once_send_one_signal(
    many: Any, server: WebhookServer, disabled: list[OutboxWebhookEndpoint]
) -> None:
    """Of two that have read the same, one is the first."""
    first, second = many(), many()
    for backend in (first, second):
        backend.book.look({server.url})
    for backend in (first, second):
        backend.book.disable(server.url, "answered 410 Gone")
    assert len(disabled) == 1
    assert OutboxWebhookEndpoint.objects.count() == 1


def test_receiver_that_raises_stops_nothing(
    many: Any, server: WebhookServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The endpoint is disabled all the same; the log names its row, and not its URL."""

    def fail(**_: Any) -> None:
        raise RuntimeError("a receiver")

    server.answer = lambda request: Reply(410)
    endpoint_disabled.connect(fail)
    try:
        assert kinds(many().send_batch([to(f"{server.url}/path-key")])) == [Rejected]
    finally:
        endpoint_disabled.disconnect(fail)
    row = OutboxWebhookEndpoint.objects.get()
    assert row.disabled_at is not None
    assert f"Disabled webhook endpoint {row.pk} of backend 'default'" in caplog.text
    assert "path-key" not in caplog.text


def test_table_that_cannot_be_read_costs_no_event(
    make: MakeBackend, server: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent while nobody knows what is disabled."""

    def fail(*_: Any) -> None:
        raise DatabaseError("gone away")

    backend = make(url=server.url)
    monkeypatch.setattr(backend.book, "look", fail)
    with pytest.raises(BackendUnavailable, match="can't be read"):
        backend.send(*numbers(1))
    assert not server.requests


def test_trouble_that_cannot_be_written_down_undoes_no_delivery(
    many: Any, server: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that fails behind the batch makes no delivered event a failed one."""

    def fail(*_: Any) -> None:
        raise DatabaseError("gone away")

    backend = many()
    monkeypatch.setattr(backend.book, "failed", fail)
    server.answer = lambda request: Reply(500 if request.target == "/bad" else 204)
    outcomes = backend.send_batch([to(f"{server.url}/good"), to(f"{server.url}/bad")])
    assert kinds(outcomes) == [None, TransientError]
