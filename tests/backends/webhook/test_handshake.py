"""The handshake of CloudEvents' rules for webhooks: who agrees to receive events, and who does not.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/http-webhook.md section 4
"""

from __future__ import annotations

from typing import Any

import pytest

from django_broadcaster.backends.webhook import handshakes
from django_broadcaster.exceptions import BackendUnavailable, Rejected, TransientError
from tests.support.batches import kinds, numbers
from tests.support.webhook_server import Reply, Request, WebhookServer

from .conftest import MakeBackend
from .helpers import to

pytestmark = pytest.mark.django_db

ORIGIN = "events.shop.example"


def agreeing(allowed: str | None, status: int = 200) -> Any:
    """An endpoint that answers the handshake so, and takes every event."""
    headers = {} if allowed is None else {"WebHook-Allowed-Origin": allowed}

    def answer(request: Request) -> Reply:
        return Reply(status, headers) if request.method == "OPTIONS" else Reply()

    return answer


def methods(server: WebhookServer) -> list[str]:
    """The methods of all requests, in order."""
    return [request.method for request in server.requests]


def test_requests_say_who_sends(make: MakeBackend, server: WebhookServer) -> None:
    """Each delivery has the header, and without the option none has it."""
    make(url=server.url, request_origin=ORIGIN).send(*numbers(1))
    make(url=server.url).send(*numbers(1))
    with_it, without = server.requests
    assert with_it.headers["webhook-request-origin"] == ORIGIN
    assert "webhook-request-origin" not in without.headers
    shown = make(url=server.url, request_origin=ORIGIN).show(*numbers(1))
    assert shown.headers["WebHook-Request-Origin"] == ORIGIN


@pytest.mark.shows("the handshake before the first event")
@pytest.mark.parametrize("allowed", ["*", ORIGIN])
def test_endpoint_that_agrees_is_asked_once(
    make: MakeBackend, server: WebhookServer, allowed: str
) -> None:
    """OPTIONS comes before the first event, at the very URL, and not before the others."""
    server.answer = agreeing(allowed)
    backend = make(url=f"{server.url}/a?b=c", request_origin=ORIGIN, handshake=True)
    assert backend.send_batch(numbers(20)) == [None] * 20
    assert backend.send_batch(numbers(2)) == [None] * 2
    assert methods(server) == ["OPTIONS"] + 22 * ["POST"]
    assert {request.target for request in server.requests} == {"/a?b=c"}
    assert server.requests[0].headers["webhook-request-origin"] == ORIGIN


def test_endpoint_is_asked_again_after_a_while(
    make: MakeBackend, server: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A permission does not last for ever."""
    monkeypatch.setattr(handshakes, "GRANTED_SECONDS", 0.0)
    server.answer = agreeing("*")
    backend = make(url=server.url, request_origin=ORIGIN, handshake=True)
    for _ in range(2):
        assert backend.send_batch(numbers(1)) == [None]
    assert methods(server) == ["OPTIONS", "POST"] * 2


@pytest.mark.shows("the handshake before the first event")
@pytest.mark.parametrize(
    ("allowed", "status"),
    [(None, 200), ("other.example", 200), (None, 405), (None, 404), (None, 302), ("*", 503)],
)
def test_endpoint_that_does_not_agree_gets_no_event(
    make: MakeBackend, server: WebhookServer, allowed: str | None, status: int
) -> None:
    """A status grants nothing. Everything waits until the endpoint agrees, and goes on then."""
    server.answer = agreeing(allowed, status)
    backend = make(url=server.url, request_origin=ORIGIN, handshake=True)
    assert set(kinds(backend.send_batch(numbers(3)))) == {BackendUnavailable}
    assert methods(server) == ["OPTIONS"]
    server.answer = agreeing("*")
    assert backend.send_batch(numbers(3)) == [None] * 3


@pytest.mark.shows("the handshake before the first event")
@pytest.mark.parametrize(
    ("status", "kind", "spends"),
    [(405, TransientError, True), (500, TransientError, False), (410, Rejected, True)],
)
def test_one_of_many_that_does_not_agree_stops_no_other(
    make: MakeBackend,
    server: WebhookServer,
    other: WebhookServer,
    status: int,
    kind: type[Exception],
    spends: bool,
) -> None:
    """Its own events fail, and those of another endpoint arrive."""
    server.answer, other.answer = agreeing(None, status), agreeing("*")
    backend = make(event_urls=True, allow_http=True, request_origin=ORIGIN, handshake=True)
    messages = [to(server.url), to(other.url), to(server.url), to(other.url)]
    outcomes = backend.send_batch(messages)
    assert kinds(outcomes) == [kind, None, kind, None]
    assert methods(server) == ["OPTIONS"]
    failure = outcomes[0]
    assert "handshake" in str(failure)
    assert getattr(failure, "spends_retry", True) is spends
