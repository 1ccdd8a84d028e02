"""`CloudEventView`: events arrive by HTTP, once, and only from who may send them."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from threading import Thread
from types import ModuleType
from typing import Any

import pytest
import standardwebhooks
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.db import InternalError, OperationalError, ProgrammingError
from django.test import Client, override_settings
from django.urls import path

from django_broadcaster.backends.webhook.signatures import Signer
from django_broadcaster.consumers import CloudEventView
from django_broadcaster.consumers.rows import Writer
from django_broadcaster.events import CloudEvent, to_json_batch
from django_broadcaster.models import OutboxEvent
from tests.support.routing import OneDatabase
from tests.support.waiting import wait_until

OLD = "whsec_" + base64.b64encode(b"o" * 32).decode()
NEW = "whsec_" + base64.b64encode(b"n" * 32).decode()
OTHER = "whsec_" + base64.b64encode(b"x" * 32).decode()
SEED = b"s" * 32
PRIVATE = "whsk_" + base64.b64encode(SEED).decode()
PUBLIC = (
    "whpk_"
    + base64.b64encode(
        Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes_raw()
    ).decode()
)
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
LIMIT = 10_000
ATTRIBUTES = {
    "ce-specversion": "1.0",
    "ce-id": "1",
    "ce-type": "order.placed",
    "ce-source": "/shop",
}

urls = ModuleType("urls")
urls.urlpatterns = [  # type: ignore[attr-defined]
    path(
        "events/",
        CloudEventView.as_view(
            consumer="partner",
            secrets=[OLD, NEW, PUBLIC],
            max_bytes=LIMIT,
            allowed_origins=["shop.example"],
            allowed_rate=120,
        ),
    ),
    path(
        "binary/",
        CloudEventView.as_view(consumer="binary", secrets=[OLD], binary=True, max_bytes=LIMIT),
    ),
    path("open/", CloudEventView.as_view(consumer="inside", verify=False)),
]


@pytest.fixture
def where(database: str) -> Iterator[str]:
    """The view writes to each database in turn."""
    handlers = {"handlers": {"BACKEND": "django_broadcaster.backends.LocalBackend"}}
    with (
        override_settings(ROOT_URLCONF=urls, OUTBOX_PUBLISHERS=handlers),
        override_settings(DATABASE_ROUTERS=[OneDatabase(database)]),
    ):
        yield database


def event(number: int = 1, **more: Any) -> CloudEvent:
    """Return an event of another service."""
    return CloudEvent("order.placed", "/shop", {"n": number}, id=str(number), **more)


def signed(
    body: bytes, *, secret: str = OLD, moment: datetime | None = None, name: str = "msg_1"
) -> dict[str, str]:
    """Return the headers of a signed request."""
    seconds = int((moment or datetime.now(UTC)).timestamp())
    return Signer([secret]).headers(name, seconds, body)


def post(body: bytes, headers: dict[str, str], content_type: str = STRUCTURED) -> Any:
    """Send a request."""
    return Client(headers=headers).post("/events/", body, content_type=content_type)


def ids(database: str) -> list[str]:
    """Return the ids of the rows, in their order."""
    rows = OutboxEvent.objects.using(database).order_by("id")
    return list(rows.values_list("event_id", flat=True))


def test_event_in_structured_mode_is_stored_before_the_answer(where: str) -> None:
    """It is a row for the local backend, with the name of the consumer."""
    body = event(extensions={"partitionkey": "k"}).to_json()
    assert post(body, signed(body)).status_code == 204
    row = OutboxEvent.objects.using(where).get()
    assert (row.event_id, row.partition_key, row.publisher_backend) == ("1", "k", "handlers")
    assert row.publisher_config == {"consumer": "partner"}


def test_event_in_binary_mode_is_stored(where: str) -> None:
    """Attributes are headers, and the body is the data."""
    body = b'{"n": 1}'
    client = Client(headers={**signed(body), **ATTRIBUTES})
    answer = client.post("/binary/", body, content_type="application/json")
    assert answer.status_code == 204
    assert OutboxEvent.objects.using(where).get().cloud_event.data == {"n": 1}
    answer = Client(headers=ATTRIBUTES).post("/open/", body, content_type="application/json")
    assert answer.status_code == 204


def test_signed_body_does_not_count_with_other_attributes(where: str) -> None:
    """In binary mode they are headers, which no signature covers: a view must allow that."""
    assert post(BODY, signed(BODY)).status_code == 204
    answer = post(BODY, {**signed(BODY), **ATTRIBUTES, "ce-id": "forged"}, "application/json")
    assert answer.status_code == 415
    assert "the signature does not cover the headers" in answer.json()["error"]
    assert ids(where) == ["1"]


def test_batch_is_stored_whole_or_not_at_all(where: str) -> None:
    """One invalid event refuses the batch, and is named by its index."""
    body = to_json_batch([event(1), event(2)])
    assert post(body, signed(body), BATCH).status_code == 204
    bad = b"[%b,{}]" % event(3).to_json()
    answer = post(bad, signed(bad), BATCH)
    assert answer.status_code == 400
    assert "event 1 of the batch" in answer.json()["error"]
    assert ids(where) == ["1", "2"]


def test_repetition_is_stored_once_and_answered_alike(where: str) -> None:
    """A replayed request has no effect."""
    body = event().to_json()
    headers = signed(body)
    assert [post(body, headers).status_code for _ in range(3)] == [204, 204, 204]
    assert ids(where) == ["1"]


@pytest.mark.parametrize("secret", [OLD, NEW, PRIVATE])
def test_each_of_several_secrets_is_valid(where: str, secret: str) -> None:
    """Secrets can be changed without a gap, and ed25519 is verified by its public key."""
    body = event().to_json()
    assert post(body, signed(body, secret=secret)).status_code == 204


def test_signature_of_the_reference_library_is_valid(where: str) -> None:
    """What `standardwebhooks` signs, the view accepts."""
    body = event().to_json()
    moment = datetime.now(UTC)
    signature = standardwebhooks.Webhook(OLD).sign("msg_1", moment, body.decode())
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": signature,
    }
    assert post(body, headers).status_code == 204


BODY = event().to_json()


def attacks() -> dict[str, dict[str, str]]:
    """Return the headers of each attack, made now: a signature expires."""
    good = signed(BODY)
    return {
        "unsigned": {},
        "another secret": signed(BODY, secret=OTHER),
        "expired": signed(BODY, moment=datetime.now(UTC) - timedelta(seconds=400)),
        "from the future": signed(BODY, moment=datetime.now(UTC) + timedelta(hours=2)),
        "another body": signed(BODY + b" "),
        "another id": {**good, "webhook-id": "msg_2"},
        "another time": {**good, "webhook-timestamp": str(int(good["webhook-timestamp"]) - 1)},
        "truncated": {**good, "webhook-signature": good["webhook-signature"][:-8]},
        "empty": {**good, "webhook-signature": "v1,"},
        "without version": {**good, "webhook-signature": good["webhook-signature"][3:]},
        "other version": {**good, "webhook-signature": "v1a" + good["webhook-signature"][2:]},
        "not base64": {**good, "webhook-signature": "v1,!!!"},
        "time in words": {**good, "webhook-timestamp": "now"},
        "time with other digits": {**good, "webhook-timestamp": "\xb2\xb3"},
    }


@pytest.mark.parametrize("attack", attacks())
def test_request_with_a_wrong_signature_is_refused(where: str, attack: str) -> None:
    """401, nothing is stored, and the answer does not show what would be right."""
    headers = attacks()[attack]
    answer = post(
        BODY, {name: value.encode("ascii", "ignore").decode() for name, value in headers.items()}
    )
    assert answer.status_code == 401
    assert "whsec_" not in answer.content.decode()
    assert ids(where) == []


def test_part_of_a_signed_body_is_no_body(where: str) -> None:
    """Whoever writes a part of a body could choose one that has a time and an event of its own."""
    seconds = int(datetime.now(UTC).timestamp())
    signature = Signer([OLD]).headers("msg_1", seconds, b"text.%d.%b" % (seconds, BODY))
    answer = post(BODY, {**signature, "webhook-id": f"msg_1.{seconds}.text"})
    assert answer.status_code == 401
    assert "webhook-id has a dot" in answer.json()["error"]
    assert ids(where) == []


def test_view_works_under_asgi(where: str) -> None:
    """A body in parts is stored, and one over the limit is refused without a Content-Length."""
    assert _asgi(BODY[:9], BODY[9:]) == 204
    assert _asgi(*[b"x" * LIMIT] * 3) == 413
    assert ids(where) == ["1"]


def _asgi(*parts: bytes) -> int:
    """Return the status of a request in parts to the ASGI application."""
    headers = {**signed(b"".join(parts)), "content-type": STRUCTURED, "host": "testserver"}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/events/",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    waiting = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    waiting.append({"type": "http.request"})
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.Event().wait()  # the client waits for the answer
        return waiting.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(ASGIHandler()(scope, receive, send))
    return int(sent[0]["status"])


REFUSED = {
    "not JSON": (b"{", STRUCTURED, 400),
    "without a type": (b'{"specversion":"1.0","id":"1","source":"/s"}', STRUCTURED, 400),
    "id too long": (
        CloudEvent("t", "/s", id="x" * 300).to_json(), STRUCTURED, 400,
    ),
    "no event": (b'{"n": 1}', "application/json", 415),
    "another format": (b"<event/>", "application/cloudevents+xml", 400),
    "too large": (b"x" * (LIMIT + 1), STRUCTURED, 413),
    "a batch of numbers": (b"[1]", BATCH, 400),
    "no batch": (b"{}", BATCH, 400),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_request_that_can_never_be_stored_is_answered_4xx(where: str, case: str) -> None:
    """The sender does not repeat it, and is told why."""
    body, content_type, status = REFUSED[case]
    answer = post(body, signed(body), content_type)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert ids(where) == []


@pytest.mark.parametrize("kind", [OperationalError, InternalError, ProgrammingError])
def test_database_outage_is_answered_503_with_retry_after(
    where: str, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    """The sender repeats the request; also if the server is read-only, or lacks a migration."""

    def fail(*_: Any) -> None:
        raise kind("could not connect to server")

    monkeypatch.setattr(Writer, "_insert", fail)
    answer = post(BODY, signed(BODY))
    assert (answer.status_code, answer["Retry-After"]) == (503, "30")
    assert "connect" not in answer.content.decode()


def test_handshake_allows_the_origins_of_the_view(where: str) -> None:
    """An origin that is not named gets no permission."""
    asked = {"WebHook-Request-Origin": "shop.example", "WebHook-Request-Rate": "1000"}
    answer = Client(headers=asked).options("/events/")
    assert answer.status_code == 200
    assert answer["WebHook-Allowed-Origin"] == "shop.example"
    assert answer["WebHook-Allowed-Rate"] == "120"
    other = Client(headers={"WebHook-Request-Origin": "evil.example"}).options("/events/")
    assert other.status_code == 403
    assert "WebHook-Allowed-Origin" not in other


def test_other_methods_are_refused(where: str) -> None:
    """A GET is not an event."""
    assert Client().get("/events/").status_code == 405


def test_view_without_verification_takes_unsigned_requests(where: str) -> None:
    """It says so itself: verify=False."""
    answer = Client().post("/open/", BODY, content_type=STRUCTURED)
    assert answer.status_code == 204


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"secrets": [OLD]}, "consumer"),
        ({"consumer": "c"}, "secrets"),
        ({"consumer": "c", "secrets": ["password"]}, "secrets"),
        ({"consumer": "c", "secrets": [PRIVATE]}, "whpk_"),
        ({"consumer": "c", "secrets": [OLD], "allowed_origins": "*"}, "allowed_origins"),
    ],
)
def test_wrong_argument_is_named_when_the_urls_are_loaded(
    arguments: dict[str, Any], named: str
) -> None:
    """No request is needed to find it, and no secret is shown."""
    with pytest.raises(ImproperlyConfigured, match=named) as caught:
        CloudEventView.as_view(**arguments)
    assert "password" not in str(caught.value)


@pytest.fixture
def server(where: str) -> Iterator[tuple[str, int]]:
    """A real server with the view, which has a thread for each connection."""
    made = ThreadedWSGIServer(("127.0.0.1", 0), WSGIRequestHandler)
    made.set_app(WSGIHandler())
    thread = Thread(target=made.serve_forever, daemon=True)
    thread.start()
    try:
        yield "127.0.0.1", made.server_port
    finally:
        made.shutdown()
        made.server_close()


def test_100_megabytes_are_refused_without_being_read(server: tuple[str, int]) -> None:
    """The answer comes before the body was sent."""
    with socket.create_connection(server, timeout=20) as client:
        head = (
            "POST /events/ HTTP/1.1\r\nHost: testserver\r\n"
            f"Content-Type: {STRUCTURED}\r\nContent-Length: {100 * 2**20}\r\n\r\n"
        )
        client.sendall(head.encode() + b"{" * 1000)
        assert b" 413 " in client.recv(200)


def test_a_slow_body_delays_no_other_request(server: tuple[str, int], where: str) -> None:
    """One sender that stops in the middle holds its own connection only."""
    with socket.create_connection(server, timeout=20) as slow:
        slow.sendall(b"POST /events/ HTTP/1.1\r\nHost: testserver\r\nContent-Length: 500\r\n\r\n{")
        connection = http.client.HTTPConnection(*server, timeout=20)
        connection.request(
            "POST",
            "/events/",
            BODY,
            {**signed(BODY), "Content-Type": STRUCTURED, "Host": "testserver"},
        )
        assert connection.getresponse().status == 204
        connection.close()
    wait_until(lambda: ids(where) == ["1"], 20, "stored")


def test_numbers_and_nesting_are_read_as_by_other_consumers(where: str) -> None:
    """The data arrive unchanged."""
    data = {"n": 2**53 + 1, "deep": [[[{"a": None}]]], "text": "Zoë\u2028"}
    body = CloudEvent("t", "/s", data, id="1").to_json()
    assert post(body, signed(body)).status_code == 204
    assert OutboxEvent.objects.using(where).get().cloud_event.data == json.loads(body)["data"]
