"""What each answer of an endpoint means, for an only endpoint and for one of many."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from threading import Event

import pytest

from django_broadcaster.backends.webhook.errors import seconds_of
from django_broadcaster.exceptions import (
    MAX_RETRY_AFTER,
    BackendUnavailable,
    DeliveryError,
    Held,
    Rejected,
    TransientError,
)
from django_broadcaster.testing import Fault, make_message
from tests.support.batches import kinds, numbers
from tests.support.webhook_server import Reply, Request, WebhookServer

from .conftest import MakeBackend
from .helpers import ids, ids_of, to

pytestmark = pytest.mark.django_db

PUT_OFF = "put off"
"""Transient, without a retry spent."""


def kind_of(error: DeliveryError | None) -> object:
    """The type of an outcome, or `PUT_OFF`."""
    if isinstance(error, TransientError) and not error.spends_retry:
        return PUT_OFF
    return None if error is None else type(error)


@pytest.mark.shows("2xx only, `Retry-After`, redirects refused")
@pytest.mark.shows(Fault.MISSING)
@pytest.mark.shows(Fault.CREDENTIALS)
@pytest.mark.shows(Fault.FULL)
@pytest.mark.parametrize(
    ("statuses", "only", "one_of_many"),
    [
        ([200, 201, 202, 204, 299], None, None),
        ([300, 301, 304, 307, 308, 399], BackendUnavailable, TransientError),
        ([401, 403, 404, 405, 407], BackendUnavailable, TransientError),
        ([400, 402, 406, 408, 409, 415, 418, 425, 451, 499], TransientError, TransientError),
        ([413, 422, 431], Rejected, Rejected),
        ([500, 501, 505, 511, 599, 600, 999], TransientError, TransientError),
        ([429, 503], BackendUnavailable, PUT_OFF),
        ([502, 504], BackendUnavailable, PUT_OFF),
    ],
)
def test_kind_of_each_status(
    make: MakeBackend,
    server: WebhookServer,
    statuses: list[int],
    only: object,
    one_of_many: object,
) -> None:
    """2xx is delivered and nothing else is; who is to blame for the others, by their meaning."""
    for status in statuses:
        server.answer = lambda request, status=status: Reply(status)
        for expected, options in (
            (only, {"url": server.url}),
            (one_of_many, {"url": server.url, "event_urls": True}),
        ):
            (outcome,) = make(**options).send_batch(numbers(1))
            assert kind_of(outcome) == expected, status
            assert outcome is None or str(status) in str(outcome)


def test_status_of_a_proxy_blames_the_event_that_alone_met_it(
    make: MakeBackend, server: WebhookServer
) -> None:
    """502 for one event while others are delivered is that event's: it spends a retry."""
    server.answer = lambda request: Reply(502 if b'"bad"' in request.body else 204)
    for options in ({}, {"event_urls": True}):
        backend = make(url=server.url, **options)
        messages = [make_message(data="good"), make_message(data="bad")]
        outcomes = backend.send_batch(messages)
        assert [kind_of(each) for each in outcomes] == [None, TransientError]


@pytest.mark.shows("order after a failure in a batch")
@pytest.mark.parametrize("many", [False, True])
def test_event_that_failed_holds_its_key_only(
    make: MakeBackend, server: WebhookServer, many: bool
) -> None:
    """Nothing of its key is sent behind it, and all others are."""
    server.answer = lambda request: Reply(500 if b'"bad"' in request.body else 204)
    messages = [
        make_message(data=1, partition_key="a"),
        make_message(data="bad", partition_key="a"),
        make_message(data=2, partition_key="b"),
        make_message(data=3, partition_key="a"),
        make_message(data=4),
        make_message(data="bad"),
        make_message(data=5, partition_key="a"),
    ]
    outcomes = make(url=server.url, event_urls=many).send_batch(messages)
    assert kinds(outcomes) == [None, TransientError, None, Held, None, TransientError, Held]
    expected = [messages[index].event_id for index in (0, 1, 2, 4, 5)]
    assert sorted(ids(server)) == sorted(expected)


def test_only_endpoint_that_refuses_everyone_stops_the_batch(
    make: MakeBackend, server: WebhookServer
) -> None:
    """Behind an answer that every event would get, nothing more is sent."""
    server.answer = lambda request: Reply(503)
    outcomes = make(url=server.url, max_in_flight=2).send_batch(numbers(100))
    assert kinds(outcomes) == [BackendUnavailable] * 100
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        (None, 0.0),
        ("", 0.0),
        ("-5", 0.0),
        ("1.5", 0.0),
        ("soon", 0.0),
        ("9" * 400, float("9" * 12)),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
        ("Fri, 99 Dec 1999 23:59:59 GMT", 0.0),
        ("²", 0.0),
    ],
)
def test_retry_after_is_read(text: str | None, seconds: float) -> None:
    """Seconds as they are; what is no number or date, and what has passed, asks for nothing."""
    assert seconds_of(text) == seconds


def test_retry_after_may_be_a_date() -> None:
    """The seconds until then."""
    moment = datetime.now(UTC) + timedelta(minutes=2)
    assert 118 <= seconds_of(format_datetime(moment, usegmt=True)) <= 120


@pytest.mark.shows("2xx only, `Retry-After`, redirects refused")
@pytest.mark.parametrize(
    ("status", "options", "expected"),
    [
        (429, {}, BackendUnavailable),
        (503, {}, BackendUnavailable),
        (500, {}, TransientError),
        (429, {"event_urls": True}, PUT_OFF),
        (503, {"event_urls": True}, PUT_OFF),
        (500, {"event_urls": True}, TransientError),
        (404, {"event_urls": True}, TransientError),
    ],
)
def test_retry_after_is_passed_on(
    make: MakeBackend,
    server: WebhookServer,
    status: int,
    options: dict[str, bool],
    expected: object,
) -> None:
    """Whatever failed, the relay hears how long the endpoint wants to be left alone."""
    server.answer = lambda request: Reply(status, {"Retry-After": "120"})
    (outcome,) = make(url=server.url, **options).send_batch(numbers(1))
    assert outcome is not None
    assert kind_of(outcome) == expected
    assert 119 < outcome.retry_after <= 120


def test_retry_after_of_years_is_a_day(make: MakeBackend, server: WebhookServer) -> None:
    """An endpoint cannot put its events off for ever."""
    server.answer = lambda request: Reply(429, {"Retry-After": "999999999"})
    (outcome,) = make(url=server.url).send_batch(numbers(1))
    assert outcome is not None
    assert outcome.retry_after == MAX_RETRY_AFTER


@pytest.mark.shows("order after a failure in a batch")
def test_key_stays_in_order_on_its_way_to_several_endpoints(
    make: MakeBackend, server: WebhookServer, other: WebhookServer
) -> None:
    """The next event of a key is sent when the one before was delivered, wherever they go."""
    arrived: list[str] = []

    def answer(request: Request) -> Reply:
        arrived.append(request.headers["webhook-id"])
        return Reply(204)

    server.answer = other.answer = answer
    messages = [
        to((server, other)[number // 3 % 2].url, key=f"key-{number % 5}", data=number)
        for number in range(100)
    ]
    backend = make(event_urls=True, allow_http=True)
    assert backend.send_batch(messages) == [None] * 100
    for key in range(5):
        own = ids_of(messages[key::5])
        assert [each for each in arrived if each in own] == own


def test_earliest_event_that_may_go_goes_first(make: MakeBackend, server: WebhookServer) -> None:
    """A long key is not sent to its end before others get their turn."""
    messages = [make_message(data=n, partition_key="abc"[n % 3]) for n in range(30)]
    backend = make(url=server.url, max_in_flight=1)
    assert backend.send_batch(messages) == [None] * 30
    assert ids(server) == ids_of(messages)


def test_many_requests_are_in_flight_and_never_more_than_allowed(
    make: MakeBackend, server: WebhookServer
) -> None:
    """Events of different keys do not wait for each other, up to `max_in_flight`."""
    gate = Event()

    def answer(request: Request) -> Reply:
        if len(server.requests) == 20:
            gate.set()  # only then does any of the first twenty get its answer
        return Reply(hold=gate)

    server.answer = answer
    backend = make(url=server.url, max_in_flight=20)
    assert backend.send_batch(numbers(100)) == [None] * 100
    assert server.most_at_once == 20


def test_connections_are_used_again(make: MakeBackend, server: WebhookServer) -> None:
    """A hundred events in ten batches take no more connections than requests at once."""
    backend = make(url=server.url, max_in_flight=5)
    for _ in range(10):
        assert backend.send_batch(numbers(10)) == [None] * 10
    assert server.connections == 5


def test_headers_of_the_settings_are_sent(make: MakeBackend, server: WebhookServer) -> None:
    """Each request has them, beside our own."""
    backend = make(url=server.url, headers={"Authorization": "Bearer x", "X-Shop": "1"})
    backend.send(make_message(data=1))
    headers = server.requests[0].headers
    assert (headers["authorization"], headers["x-shop"]) == ("Bearer x", "1")
    assert headers["user-agent"].startswith("django-broadcaster/")
    assert headers["content-type"] == "application/cloudevents+json"
