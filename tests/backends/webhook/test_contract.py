"""The contract and the HTTP binding: what an endpoint receives."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any
from urllib.parse import unquote

import pytest
from cloudevents.core.bindings import http
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from django_broadcaster.backends import Message, MessageBackend, WebhookBackend
from django_broadcaster.backends.bindings import canonical
from django_broadcaster.events import JSON_NULL, CloudEvent
from django_broadcaster.testing import BackendContract, make_message
from tests.events.strategies import EVENTS as ANY_EVENT
from tests.support.conformance import assert_same_event
from tests.support.webhook_server import Request, webhook_server

pytestmark = pytest.mark.django_db


class TestStructured(BackendContract):
    """One endpoint, which takes every event."""

    mode = "structured"
    options: Mapping[str, Any] = {}

    @pytest.fixture(autouse=True)
    def _endpoint(self) -> Iterator[None]:
        with webhook_server() as self.server, ExitStack() as self.made:
            yield

    def make_backend(self, **options: Any) -> MessageBackend:
        backend = WebhookBackend(
            url=f"{self.server.url}/events",
            content_mode=self.mode,
            allow_private=True,
            max_in_flight=1,  # the suite wants to see keys in the order of their batch
            **{**self.options, **options},
        )
        self.made.callback(backend.close)
        return backend

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        return [self.members(request) for request in self.server.requests]

    def members(self, request: Request) -> Mapping[str, Any]:
        """What came as members of the JSON format."""
        assert request.headers["content-type"] == "application/cloudevents+json"
        assert not [name for name in request.headers if name.startswith("ce-")]
        return json.loads(request.body)  # type: ignore[no-any-return]

    def break_broker(self) -> AbstractContextManager[object]:
        return self.server.away()


class TestStructuredWithEventUrls(TestStructured):
    """The same endpoint where events might name others: all but outages is the same."""

    options = {"event_urls": True}
    config = {"url": "https://hooks.example/orders"}

    def break_broker(self) -> AbstractContextManager[object]:
        pytest.skip("with several endpoints, one that is away is no outage of the backend")


class TestBinary(TestStructured):
    """In binary mode attributes are text, and data is bytes: that is what is compared."""

    mode = "binary"

    def members(self, request: Request) -> Mapping[str, Any]:
        found: dict[str, Any] = {
            name.removeprefix("ce-"): unquote(text)
            for name, text in request.headers.items()
            if name.startswith("ce-")
        }
        if "content-type" in request.headers:
            found["datacontenttype"] = request.headers["content-type"]
        if found.get("datacontenttype") == "application/cloudevents+json":
            return json.loads(request.body)  # type: ignore[no-any-return]
        found["data"] = request.body
        return found

    def _arrived(self, messages: Sequence[Message]) -> None:
        assert self.read_back() == [_binary_members(message) for message in messages]


def _binary_members(message: Message) -> Mapping[str, Any]:
    """What a message is in binary mode, by the words of the specification.

    A webhook must have a body, so one without data is structured.
    """
    members = message.event.to_dict()
    if not message.event.has_data:
        return members
    expected = {
        name: canonical(value)
        for name, value in members.items()
        if name not in ("data", "data_base64")
    }
    data: bytes | None = message.data_binary
    if data is None and message.data_json is not None:
        is_json = "json" in message.data_content_type
        text = message.data_json if is_json else json.loads(message.data_json)
        data = text.encode()
    return {**expected, "data": data}


@pytest.mark.shows("read by the official SDK, vectors of the specification")
@pytest.mark.parametrize("mode", ["structured", "binary"])
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(events=st.lists(ANY_EVENT, min_size=5, max_size=20))
def test_sdk_reads_what_an_endpoint_receives(
    django_db_blocker: Any, mode: Any, events: list[CloudEvent]
) -> None:
    """The official SDK finds the same attributes and the same data in every request."""
    with webhook_server() as server:
        backend = WebhookBackend(
            alias="default",
            url=server.url,
            content_mode=mode,
            allow_private=True,
            max_in_flight=1,
        )
        # A key of its own for each, so that they come in order but none waits for another.
        messages = [make_message(event) for event in events]
        for message in messages:
            backend.send(message)
        backend.close()
    assert len(server.requests) == len(events)
    for request, message in zip(server.requests, messages, strict=True):
        read = http.from_http_event(http.HTTPMessage(request.headers, request.body))
        assert_same_event(read, message.event)


@pytest.mark.shows("read by the official SDK, vectors of the specification")
@pytest.mark.parametrize(
    ("attribute", "value", "header"),
    [
        ("subject", "Euro € \U0001f600", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
        ("subject", 'a"b%c', "a%22b%25c"),
        ("event_type", "order placed", "order%20placed"),
    ],
)
def test_attribute_in_a_header_is_percent_encoded(
    make: Any, server: Any, attribute: str, value: str, header: str
) -> None:
    """The vectors are those of section 3.1.3.2 of the HTTP binding, and their like."""
    backend = make(url=server.url, content_mode="binary")
    backend.send(make_message(data=1, **{attribute: value}))
    assert server.requests[0].headers[f"ce-{attribute.removeprefix('event_')}"] == header


@pytest.mark.shows("names are escaped")
def test_value_cannot_begin_a_header_of_its_own(make: Any, server: Any) -> None:
    """A line break in a value that got past the publishers stays inside of its header."""
    backend = make(url=server.url, content_mode="binary")
    message = make_message(data=1)
    message.subject = "x\r\nevil: 1"
    message.event_id = "1\r\nevil: 2"
    backend.send(message)
    (request,) = server.requests
    assert "evil" not in request.headers
    assert request.headers["ce-subject"] == "x%0D%0Aevil:%201"
    assert request.headers["webhook-id"] == "1%0D%0Aevil:%202"


def test_event_without_data_is_not_null(make: Any, server: Any) -> None:
    """In binary mode an event without data is structured, and not the text null."""
    backend = make(url=server.url, content_mode="binary")
    messages = [make_message(), make_message(data=JSON_NULL)]
    assert backend.send_batch(messages) == [None, None]
    assert sorted(request.body for request in server.requests) == [b"null", messages[0].to_json()]
