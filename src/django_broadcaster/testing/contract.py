"""The promises of a backend, as tests that every backend runs.

    class TestPigeonBackend(BackendContract):
        def make_backend(self, **options):
            return PigeonBackend(loft=self.loft, **options)

        def read_back(self):
            return [json.loads(event) for event in self.loft.events()]

The names of the tests say what is promised; `backends/base.py` says why.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, ClassVar, NoReturn

import pytest

from django_broadcaster.backends import Message, MessageBackend, Outcome
from django_broadcaster.events import JSON_NULL, CloudEvent
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    BackendUnavailable,
    Held,
    InvalidPublisherConfig,
    Rejected,
)


def make_message(
    event: CloudEvent | None = None,
    *,
    partition_key: str | None = None,
    config: Mapping[str, Any] | None = None,
    attempt: int = 1,
    **attributes: Any,
) -> Message:
    """Return an event as a relay hands it to a backend.

    The event is the given one, or one made of `attributes`, the arguments of `CloudEvent`;
    `event_type` and `source` have defaults. The key is `partition_key`, else the event's own.
    """
    event = event or CloudEvent(**{"event_type": "test.event", "source": "/contract", **attributes})
    return Message.of(event, partition_key=partition_key, config=config, attempt=attempt)


def _event(**attributes: Any) -> CloudEvent:
    return CloudEvent(**{"event_type": "test.event", "source": "/contract", **attributes})


EVENTS: Mapping[str, CloudEvent] = {
    "object": _event(data={"total": 19.5, "items": [{"sku": "A-1", "count": 2}], "paid": False}),
    "list": _event(data=[1, "2", None, True, 0.25]),
    "text": _event(data="plain text, as JSON"),
    "text/plain": _event(data="not JSON at all: {", data_content_type="text/plain"),
    "unicode": _event(
        event_type="bestellung.überprüft",
        subject="日本/☃",
        data={"name": "Zoë 🦓", "quote": '"\\\u2028\r\n\t'},
        extensions={"note": "größer 🦓"},
    ),
    "number": _event(data=2**53 + 1),
    "true": _event(data=True),
    "null": _event(data=JSON_NULL),
    "empty object": _event(data={}),
    "empty text": _event(data=""),
    "no data": _event(),
    "bytes": _event(data=bytes(range(256)), data_content_type="application/octet-stream"),
    "no bytes": _event(data=b"", data_content_type="application/octet-stream"),
    "JSON as bytes": _event(data=b'{"a": 1}', data_content_type="application/json"),
    "every attribute": _event(
        id="id with spaces/?&=",
        source="https://shop.example/orders?x=1#2",
        subject="42",
        time=datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=UTC),
        data={"a": 1},
        data_content_type="application/vnd.shop.order+json; charset=utf-8",
        data_schema="https://shop.example/order.json",
    ),
    "whole second": _event(time=datetime(2024, 1, 1, tzinfo=UTC), data=1),
    "no time": _event(time=None, data=1),
    "extensions": _event(
        data=1,
        extensions={
            "flag": True,
            "count": -7,
            "text": "7",
            "empty": "",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        },
    ),
    "documented extensions": _event(
        data=1,
        extensions={
            "sequence": "00042",
            "expirytime": "2999-12-31T23:59:59Z",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "tracestate": "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
        },
    ),
    "partition key": _event(data=1, extensions={"partitionkey": "order 1/ä"}),
}
"""Events that are easily damaged on the way, by name; each of them must arrive as it is."""


class BackendContract:
    """Subclass it as `TestSomething`, write `make_backend` and, where it can be, `read_back`.

    Each test has the destination to itself: what `read_back` returns was delivered by this test.
    Fixtures and marks work as in any test class.
    """

    reads_back: ClassVar[bool] = True
    """Whether what arrived can be looked at. False: the suite believes the acknowledgements."""

    per_message_failure: ClassVar[bool] = True
    """Whether one message over `max_message_bytes` is refused, and others of its batch are sent."""

    names_unknown: ClassVar[bool] = True
    """Whether options and keys of `publisher_config` that the backend does not know are refused."""

    config: ClassVar[Mapping[str, Any]] = {}
    """A `publisher_config` that the backend accepts."""

    refused_config: ClassVar[Mapping[str, Any]] = {"no_such_key": 1}
    """A `publisher_config` of one key that the backend refuses."""

    large: ClassVar[int] = 200_000
    """Bytes of data in one message that the destination must be able to take."""

    alias: ClassVar[str] = "contract"

    def make_backend(self, **options: Any) -> MessageBackend:
        """Return a new backend, not opened. `options` has `alias`, and whatever a test needs."""
        raise NotImplementedError

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        """Return what arrived, in order of arrival, as members of the CloudEvents JSON format."""
        raise NotImplementedError

    def break_broker(self) -> AbstractContextManager[object]:
        """Return a context manager in which the broker can't be reached.

        After it the broker is back. Leave it out where there is no broker that could be away.
        """
        pytest.skip("this backend has no broker that could be away")

    @pytest.fixture
    def backend(self) -> Iterator[MessageBackend]:
        """An open backend."""
        backend = self._make()
        backend.open()
        yield backend
        backend.close()

    # --- What arrives ------------------------------------------------------------------------

    @pytest.mark.parametrize("name", EVENTS)
    def test_event_arrives_as_it_is(self, backend: MessageBackend, name: str) -> None:
        """Every attribute, and the data with its types, is at the destination after publish."""
        message = make_message(EVENTS[name])
        backend.send(message)
        self._arrived([message])

    def test_large_event_arrives_as_it_is(self, backend: MessageBackend) -> None:
        """An event with much data is not cut."""
        message = make_message(data={"text": "ä" * (self.large // 2)})
        backend.send(message)
        self._arrived([message])

    def test_batch_has_one_outcome_for_each_message(self, backend: MessageBackend) -> None:
        """A batch without failures is acknowledged message by message, and arrives in order."""
        messages = [make_message(data=number, partition_key="key") for number in range(100)]
        assert backend.send_batch(messages) == [None] * 100
        self._arrived(messages)

    def test_empty_batch_has_no_outcomes(self, backend: MessageBackend) -> None:
        """An empty batch has an empty list of outcomes."""
        assert backend.send_batch([]) == []
        self._arrived([])

    def test_order_of_a_key_is_kept(self, backend: MessageBackend) -> None:
        """The events of each key arrive in publish order, over several batches."""
        messages = [
            make_message(data=number, partition_key=f"key-{number % 7}") for number in range(210)
        ]
        for start in range(0, 210, 30):
            outcomes = backend.send_batch(messages[start : start + 30])
            assert outcomes == [None] * 30
        if self.reads_back:
            for key in {message.partition_key for message in messages}:
                arrived = [each["id"] for each in self.read_back() if each["partitionkey"] == key]
                assert arrived == [each.event_id for each in messages if each.partition_key == key]

    # --- Failures ----------------------------------------------------------------------------

    def test_message_over_the_limit_holds_its_key_only(self) -> None:
        """The message is rejected, later events of its key are held, and all others are sent."""
        if not self.per_message_failure:
            pytest.skip("this backend refuses no single message by its size")
        backend = self._make(max_message_bytes=1000)
        backend.open()
        large = {"text": "x" * 1000}
        messages = [
            make_message(data=1, partition_key="a"),
            make_message(data=large, partition_key="a"),
            make_message(data=2, partition_key="b"),
            make_message(data=3, partition_key="a"),
            make_message(data=large),
            make_message(data=4),
            make_message(data=5, partition_key="b"),
        ]
        outcomes = backend.send_batch(messages)
        backend.close()
        kinds = [None, Rejected, None, Held, Rejected, None, None]
        assert kinds_of(outcomes) == kinds
        self._arrived([each for each, kind in zip(messages, kinds, strict=True) if kind is None])

    def test_broker_that_is_away_is_unavailable(self) -> None:
        """Publishing without the broker raises BackendUnavailable, opened before or not."""
        opened, fresh, late = self._make(), self._make(), self._make()
        opened.open()
        with self.break_broker():
            for backend in (opened, fresh):
                with pytest.raises(BackendUnavailable):
                    backend.send(make_message(data=1))
                assert set(kinds_of(_outcomes(backend, 3))) == {BackendUnavailable}
            with pytest.raises(BackendUnavailable):
                self._open(late)
        for backend in (opened, fresh, late):
            backend.close()

    def test_delivery_goes_on_when_the_broker_is_back(self) -> None:
        """A backend that has seen its broker go away is of use again, without being reopened."""
        backend = self._make()
        backend.open()
        with self.break_broker():
            _outcomes(backend, 2)
        message = make_message(data="back")
        backend.send(message)
        backend.close()
        if self.reads_back:
            assert self.read_back()[-1]["id"] == message.event_id

    # --- Settings ----------------------------------------------------------------------------

    def test_unknown_option_is_named(self) -> None:
        """An option that the backend does not know is an error that names it and the alias."""
        if not self.names_unknown:
            pytest.skip("this backend takes every option")
        with pytest.raises(BackendConfigurationError) as caught:
            self._make(no_such_option=1)
        assert "'no_such_option'" in str(caught.value)
        assert f"'{self.alias}'" in str(caught.value)

    def test_unknown_config_key_is_named(self) -> None:
        """A key of `publisher_config` that the backend does not take is an error that names it."""
        if not self.names_unknown:
            pytest.skip("this backend takes every publisher_config")
        (key,) = self.refused_config
        with pytest.raises(InvalidPublisherConfig, match=f"'{key}'") as caught:
            self._make().validate_config({**self.config, **self.refused_config})
        assert caught.value.backend == self.alias

    def test_known_config_is_accepted(self) -> None:
        """An empty `publisher_config` is valid, and so is the backend's own example."""
        backend = self._make()
        backend.validate_config({})
        backend.validate_config(self.config)

    # --- Life --------------------------------------------------------------------------------

    def test_making_a_backend_opens_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The constructor speaks to no server: publish calls make backends, too."""

        def refuse(*_: object) -> NoReturn:
            pytest.fail("the constructor opened a connection")

        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "connect", refuse)
            backend = self._make()
        backend.close()

    def test_close_may_be_called_at_any_time(self) -> None:
        """Closing twice, or without having opened, raises nothing."""
        backend = self._make()
        backend.close()
        backend.open()
        backend.close()
        backend.close()

    def test_closed_backend_can_be_opened_again(self) -> None:
        """A backend delivers after it was closed and opened."""
        backend = self._make()
        messages = [make_message(data=number) for number in range(2)]
        for message in messages:
            backend.open()
            backend.send(message)
            backend.close()
        self._arrived(messages)

    def test_health_check_tells_that_the_broker_is_there(self) -> None:
        """The health check is True whether the backend is new, open or closed."""
        backend = self._make()
        answers = [backend.health_check()]
        backend.open()
        answers.append(backend.health_check())
        backend.close()
        answers.append(backend.health_check())
        assert answers == [True, True, True]

    def test_health_check_tells_that_the_broker_is_away(self) -> None:
        """The check is False while the broker is away, raises nothing, and is True afterwards."""
        backend = self._make()
        backend.open()
        with self.break_broker():
            assert backend.health_check() is False
            assert self._make().health_check() is False
        assert backend.health_check() is True
        backend.close()

    # --- Helpers -----------------------------------------------------------------------------

    def _make(self, **options: Any) -> MessageBackend:
        return self.make_backend(alias=self.alias, **options)

    def _open(self, backend: MessageBackend) -> None:
        """Open and use a backend: one that connects at the first publish raises there."""
        backend.open()
        backend.send(make_message(data=1))

    def _arrived(self, messages: Sequence[Message]) -> None:
        """Assert that these messages, and no others, have arrived in this order."""
        if self.reads_back:
            arrived = [_canonical(CloudEvent.from_dict(members)) for members in self.read_back()]
            assert arrived == [_canonical(message.event) for message in messages]


def _outcomes(backend: MessageBackend, count: int) -> list[Outcome]:
    """Publish a batch; a batch as a whole may also raise that the broker is away."""
    try:
        return backend.send_batch([make_message(data=number) for number in range(count)])
    except BackendUnavailable as error:
        return [error] * count


def kinds_of(outcomes: Sequence[Outcome]) -> list[type[Exception] | None]:
    """Return the class of each error, None for a message that was delivered."""
    return [None if outcome is None else type(outcome) for outcome in outcomes]


def _canonical(event: CloudEvent) -> str:
    """Return text that is equal only if the types are: to Python, 1, 1.0 and True are equal."""
    return json.dumps(event.to_dict(), sort_keys=True)
