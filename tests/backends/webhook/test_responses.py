"""What is stored of a failed request: the response, the time it took, and which endpoint it was."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from django_broadcaster.backends.webhook.responses import KEPT
from django_broadcaster.redaction import endpoint_name, error_text
from tests.support.batches import numbers
from tests.support.webhook_server import Reply, WebhookServer

from .conftest import MakeBackend
from .helpers import to
from .test_relay import backend

if TYPE_CHECKING:
    from pytest_django import Settings

LOCKED = b'{"error":\n  "ledger is locked"}'

pytestmark = pytest.mark.django_db


def stored(outcome: Any) -> str:
    """What is stored of an outcome."""
    return error_text(outcome)


def test_response_can_be_left_out(make: MakeBackend, server: WebhookServer) -> None:
    """With keep_response=False the time alone is stored."""
    server.answer = lambda request: Reply(500, body=LOCKED)
    (outcome,) = make(url=server.url, keep_response=False).send_batch(numbers(1))
    assert re.search(r"Error\nTook \d+\.\d\d s\.$", stored(outcome))


def test_time_is_stored_where_there_is_no_response(
    make: MakeBackend, server: WebhookServer
) -> None:
    """A connection that is cut off has a time, too."""
    server.answer = lambda request: Reply(raw=b"", cut=True)
    (outcome,) = make(url=server.url).send_batch(numbers(1))
    assert re.search(r"\nTook \d+\.\d\d s\.$", stored(outcome))


@pytest.mark.parametrize("before", [0, KEPT - 14], ids=["at the beginning", "across the end"])
def test_secrets_in_a_response_are_masked(
    make: MakeBackend, server: WebhookServer, settings: Settings, before: int
) -> None:
    """Secrets of the settings, headers of OPTIONS, and the path of the URL are not stored."""
    settings.OUTBOX_PUBLISHERS = backend(url=server.url, password="from-the-settings")
    said = f"{'x' * before} /hooks/k3y from-the-settings its-header-value"
    server.answer = lambda request: Reply(500, body=said.encode())
    made = make(url=f"{server.url}/hooks/k3y", headers={"X-Tenant": "its-header-value"})
    (outcome,) = made.send_batch(numbers(1))
    for secret in ("k3y", "from-the-set", "its-header"):
        assert secret not in stored(outcome)
    assert "***" in stored(outcome)


@pytest.mark.parametrize(
    "body", [b"\xff\x00\x1b[31m" * 400, "é".encode() * 2000, b""], ids=["bytes", "long", "none"]
)
def test_any_response_can_be_stored(make: MakeBackend, server: WebhookServer, body: bytes) -> None:
    """A response is cut to its first bytes, on one line that every terminal can show."""
    server.answer = lambda request: Reply(500, body=body)
    (outcome,) = make(url=server.url).send_batch(numbers(1))
    first, second = stored(outcome).split("\n")
    assert first.endswith("answered 500 Internal Server Error")
    assert second.isprintable()
    assert len(second.partition("Response: ")[2].encode()) <= KEPT


def test_endpoints_of_one_host_are_told_apart(make: MakeBackend, server: WebhookServer) -> None:
    """A stable digest of the URL is beside the host, in the error and in what is shown."""
    server.answer = lambda request: Reply(500)
    made = make(event_urls=True, allow_http=True)
    messages = [to(f"{server.url}/{path}") for path in ("a", "b", "a")]
    names = [endpoint_name("default", f"{server.url}/{path}") for path in ("a", "b", "a")]

    outcomes = made.send_batch(messages)

    assert names[0] != names[1]
    for outcome, name, message in zip(outcomes, names, messages, strict=True):
        assert f"webhook to {server.url} (endpoint {name}): answered 500" in str(outcome)
        assert name in str(made.show(message).destination["endpoint"])
