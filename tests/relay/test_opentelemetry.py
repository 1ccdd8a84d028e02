"""Traces and metrics as OpenTelemetry's SDK would export them, read from memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django
import pytest
from django.db import connections, transaction
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode, TraceFlags

from django_broadcaster import tracing
from django_broadcaster.backends.base import Message, as_delivery_error
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import (
    BackendUnavailable,
    DeliveryError,
    InvalidEvent,
    Rejected,
    TransientError,
)
from django_broadcaster.inbox import process
from django_broadcaster.instrumentation.opentelemetry import instrument, uninstrument
from django_broadcaster.instrumentation.opentelemetry.spans import MAX_FAILURES, MAX_LINKS
from django_broadcaster.models import OutboxBackendState, OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.registry import Handler, event_registry
from django_broadcaster.signals import relay_started
from django_broadcaster.store import pause
from tests.app.models import Order
from tests.publishers.statements import statements
from tests.support.backends import Script
from tests.support.events import publish, publish_many, statuses
from tests.support.telemetry import (
    Telemetry,
    context_of,
    instrumented,
    links_of,
    trace_of,
    traceparent,
)
from tests.support.waiting import wait_until
from tests.support.workers import Workers
from tools.launch import free_port

from .conftest import Join, drain, working

if TYPE_CHECKING:
    from pytest_django import Settings

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
LOCAL = {"BACKEND": "django_broadcaster.backends.LocalBackend"}
DUMMY = {"BACKEND": "django_broadcaster.backends.DummyBackend"}


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """What this process would export."""
    with instrumented() as exported:
        yield exported


@pytest.fixture
def handle(routed: str) -> Iterator[Callable[[Callable[[CloudEvent], object]], None]]:
    """Register a handler, named `handler`, for all events of the test."""

    def register(function: Callable[[CloudEvent], object]) -> None:
        event_registry.register("*", name="handler")(function)

    yield register
    event_registry.unregister("handler")


def extensions(using: str) -> list[dict[str, Any]]:
    """The extensions of the events in the outbox, in order."""
    rows = OutboxEvent.objects.using(using).order_by("id")
    return list(rows.values_list("extensions", flat=True))


def place(using: str, **arguments: Any) -> OutboxEvent:
    """Publish one event."""
    return publisher.publish_event("order.placed", "/shop", {"order": 1}, using=using, **arguments)


# --- The whole way -------------------------------------------------------------------------------


def test_a_request_the_relay_and_a_handler_are_one_trace(
    routed: str,
    telemetry: Telemetry,
    handle: Callable[[Any], None],
    join: Join,
    settings: Settings,
) -> None:
    """From the span around the publish call to the spans that a handler makes itself."""
    settings.OUTBOX_PUBLISHERS = {"default": LOCAL}

    def handler(event: CloudEvent) -> None:
        with telemetry.tracer.start_as_current_span("in the handler"):
            Order.objects.create(number=event.id)

    handle(handler)
    with telemetry.tracer.start_as_current_span("request"), transaction.atomic(using=routed):
        place(routed)
    drain(join())
    request, create = telemetry.span("request"), telemetry.span("create")
    send, handled = telemetry.span("send"), telemetry.span("process")
    inner = telemetry.span("in the handler")
    assert len({trace_of(span) for span in telemetry.spans()}) == 1
    for parent, child in ((request, create), (create, send), (create, handled), (handled, inner)):
        assert child.parent is not None
        assert child.parent.span_id == context_of(parent).span_id, (parent.name, child.name)
    # The handler ran inside of the relay's span, which must not be lost.
    assert links_of(handled) == [context_of(create).span_id, context_of(send).span_id]
    assert extensions(routed) == [{"traceparent": traceparent(create)}]


def test_the_spans_are_named_and_described_by_the_conventions(
    routed: str,
    telemetry: Telemetry,
    handle: Callable[[Any], None],
    join: Join,
    settings: Settings,
) -> None:
    """Names, kinds and attributes of a single message."""
    settings.OUTBOX_PUBLISHERS = {"default": LOCAL}
    handle(lambda event: None)
    with telemetry.tracer.start_as_current_span("request"):
        event = place(routed)
    drain(join())
    common = {
        "messaging.system": "django_broadcaster",
        "messaging.message.id": event.event_id,
    }
    identity = {
        "cloudevents.event_id": event.event_id,
        "cloudevents.event_source": "/shop",
        "cloudevents.event_type": "order.placed",
    }
    to_default = {**common, "messaging.destination.name": "default"}
    expected: Mapping[str, tuple[SpanKind, Mapping[str, Any]]] = {
        "create default": (SpanKind.PRODUCER, {**to_default, **identity, **operation("create")}),
        "send default": (SpanKind.CLIENT, {**to_default, **operation("send")}),
        "process order.placed": (
            SpanKind.CONSUMER,
            {
                **common,
                **identity,
                **operation("process"),
                "messaging.destination.name": "order.placed",
                "messaging.consumer.group.name": "handler",
            },
        ),
    }
    found = {
        span.name: (span.kind, dict(span.attributes or {}))
        for span in telemetry.spans()
        if span.name != "request"
    }
    assert found == expected
    assert {span.status.status_code for span in telemetry.spans()} == {StatusCode.UNSET}


def operation(name: str) -> dict[str, str]:
    """The attributes of an operation whose name is its type."""
    return {"messaging.operation.name": name, "messaging.operation.type": name}


@pytest.mark.skipif(django.VERSION < (6, 0), reason="django.tasks is there from Django 6.0 on")
def test_a_task_goes_on_with_the_trace(
    routed: str,
    telemetry: Telemetry,
    handle: Callable[[Any], None],
    join: Join,
    settings: Settings,
) -> None:
    """Through the queue of Django's tasks the event brings its trace along."""
    settings.OUTBOX_PUBLISHERS = {
        "default": {"BACKEND": "django_broadcaster.backends.TasksBackend"}
    }
    settings.TASKS = {"default": {"BACKEND": "django.tasks.backends.immediate.ImmediateBackend"}}
    handle(lambda event: None)
    with telemetry.tracer.start_as_current_span("request"):
        place(routed)
    drain(join())
    handled = telemetry.span("process")
    assert handled.parent is not None
    assert handled.parent.span_id == context_of(telemetry.span("create")).span_id
    assert telemetry.span("send").attributes["messaging.system"] == "django_tasks"  # type: ignore[index]


# --- Publishing ----------------------------------------------------------------------------------


def test_without_a_span_an_event_is_written_as_it_is(database: str, telemetry: Telemetry) -> None:
    """A publish call begins no trace of its own."""
    place(database)
    publisher.publish_events([{"event_type": "a", "source": "/s"}], using=database)
    assert extensions(database) == [{}, {}]
    assert telemetry.spans() == []


def test_a_trace_of_the_caller_is_left_alone(database: str, telemetry: Telemetry) -> None:
    """An event that has a `traceparent` keeps it, and makes no span of its own."""
    own = {"traceparent": GIVEN, "tracestate": "a=1"}
    with telemetry.tracer.start_as_current_span("request"):
        place(database, extensions=own)
        publisher.publish_events(
            [{"event_type": "a", "source": "/s", "extensions": own}], using=database
        )
    assert extensions(database) == [own, own]
    assert telemetry.spans("create") == []


def test_a_tracestate_comes_along(database: str, telemetry: Telemetry) -> None:
    """What came with the trace goes on with it; one without a trace is replaced."""
    carrier = CloudEvent(
        event_type="a", source="/s", extensions={"traceparent": GIVEN, "tracestate": "shop=7"}
    )
    with tracing.processing(carrier, Handler("handler", print, ("*",))):
        place(database, extensions={"tracestate": "stale=1", "flag": True})
    (found,) = extensions(database)
    assert found.pop("traceparent").split("-")[1] == GIVEN.split("-")[1]
    assert found == {"tracestate": "shop=7", "flag": True}


@pytest.mark.parametrize("kind", [list, iter])
def test_many_events_have_one_span(
    database: str, telemetry: Telemetry, kind: Callable[[Any], Any]
) -> None:
    """A call of `publish_events` is one span, with the number of its events, which all carry it."""
    events = [
        {"event_type": "a", "source": "/s", "data": 1},
        CloudEvent(event_type="b", source="/s", extensions={"flag": True}),
        CloudEvent(event_type="c", source="/s"),
    ]
    with telemetry.tracer.start_as_current_span("request"):
        publisher.publish_events(kind(events), backend="default", using=database)
    span = telemetry.span("publish default")
    carried = {"traceparent": traceparent(span)}
    assert extensions(database) == [carried, {"flag": True, **carried}, carried]
    assert dict(span.attributes or {}) == {
        "messaging.system": "django_broadcaster",
        "messaging.destination.name": "default",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.batch.message_count": 3,
    }


def test_a_fan_out_names_no_destination(
    database: str, telemetry: Telemetry, settings: Settings
) -> None:
    """An event for two backends is one span, and two rows that carry it."""
    settings.OUTBOX_PUBLISHERS = {"one": DUMMY, "two": DUMMY}
    settings.OUTBOX_ROUTES = {"*": ["one", "two"]}
    with telemetry.tracer.start_as_current_span("request"):
        place(database)
    span = telemetry.span("create")
    assert span.name == "create"
    assert extensions(database) == [{"traceparent": traceparent(span)}] * 2


def test_a_refused_event_is_an_error_without_its_data(database: str, telemetry: Telemetry) -> None:
    """The span says what kind of error it was, and nothing of what was in the event."""
    with (
        telemetry.tracer.start_as_current_span("request", record_exception=False),
        pytest.raises(InvalidEvent),
    ):
        place(database, partition_key="\x07secret")
    span = telemetry.span("create")
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == "InvalidEvent"
    assert "secret" not in span.to_json()


def test_an_unsampled_trace_says_so_on_the_wire(database: str) -> None:
    """Consumers decide as the publisher did: the flag `sampled` is off, and nothing is exported."""
    with instrumented(sampler=ALWAYS_OFF) as telemetry:
        with telemetry.tracer.start_as_current_span("request"):
            place(database)
        (found,) = extensions(database)
        assert int(found["traceparent"].rpartition("-")[2], 16) & TraceFlags.SAMPLED == 0
        assert telemetry.spans() == []


@pytest.mark.parametrize("many", [False, True])
def test_tracing_adds_no_statement(database: str, many: bool, settings: Settings) -> None:
    """Publishing takes the same statements with and without a trace; one may bind a column more."""
    settings.OUTBOX_NOTIFY = False  # which is said once in a while

    def run() -> list[str]:
        with statements() as run:
            if many:
                publisher.publish_events([{"event_type": "a", "source": "/s"}], using=database)
            else:
                place(database)
        return [sql.partition("(")[0] for sql in run]

    run()  # whatever is done once
    plain = run()
    with instrumented() as telemetry, telemetry.tracer.start_as_current_span("request"):
        assert run() == plain


# --- The relay -----------------------------------------------------------------------------------


def test_a_batch_links_to_each_creation(
    database: str, telemetry: Telemetry, scripted: Script, join: Join
) -> None:
    """Events of several traces in one batch: a span of its own, linked to them all, once each."""
    for _ in range(2):
        with telemetry.tracer.start_as_current_span("request"):
            place(database)
    with telemetry.tracer.start_as_current_span("request"):
        publisher.publish_events([{"event_type": "a", "source": "/s"}] * 3, using=database)
    place(database)
    drain(join())
    send = telemetry.span("send")
    created = [*telemetry.spans("create"), telemetry.span("publish")]
    assert send.parent is None
    assert links_of(send) == [context_of(span).span_id for span in created]
    assert send.attributes is not None
    assert send.attributes["messaging.batch.message_count"] == 6


def test_a_batch_of_one_creation_is_its_child(
    database: str, telemetry: Telemetry, scripted: Script, join: Join
) -> None:
    """The events of one call of `publish_events` are sent within the trace of the call."""
    with telemetry.tracer.start_as_current_span("request"):
        publisher.publish_events([{"event_type": "a", "source": "/s"}] * 3, using=database)
    drain(join())
    send, created = telemetry.span("send"), context_of(telemetry.span("publish"))
    assert send.parent is not None
    assert send.parent.span_id == created.span_id
    assert links_of(send) == [created.span_id]


def test_a_batch_links_to_so_many_and_no_more(
    database: str, telemetry: Telemetry, scripted: Script, join: Join
) -> None:
    """A large batch of as many traces is sent whole, with the first of the links."""
    given = [f"00-{number:032x}-{number:016x}-01" for number in range(1, MAX_LINKS + 10)]
    given.insert(1, "nonsense")
    with transaction.atomic(using=database):
        for parent in given:
            place(database, extensions={"traceparent": parent})
    drain(join(), limit=500)
    assert links_of(telemetry.span("send")) == list(range(1, MAX_LINKS + 1))


def test_failures_are_on_the_span_and_counted(
    database: str, telemetry: Telemetry, scripted: Script, join: Join
) -> None:
    """Which events failed, and how; those held behind them were not sent and do not count."""
    scripted.fail("a1", TransientError("busy"))
    scripted.fail("b1", Rejected("never"))
    publish("a1", "a2", "b1", "c1", "d1", using=database)
    join().turn(100)
    (send, *_) = telemetry.spans("send")
    assert send.status.status_code is StatusCode.ERROR
    assert send.status.description == "2 of 5 failed: busy"
    told = [dict(event.attributes or {}) for event in send.events]
    assert [each["error.type"] for each in told] == ["TransientError", "Rejected"]
    assert [each["messaging.delivery.attempt"] for each in told] == [1, 1]
    sent = {
        labels.get("error.type"): number
        for labels, number in telemetry.metrics()["messaging.client.sent.messages"]
    }
    assert sent == {None: 2, "TransientError": 1, "Rejected": 1}


def test_failures_that_are_told_are_so_many_and_no_more(
    database: str, telemetry: Telemetry, scripted: Script, join: Join
) -> None:
    """A batch that fails as a whole makes no endless span."""
    scripted.fail("*", TransientError("busy"))
    publish_many(MAX_FAILURES + 5, database, keys=MAX_FAILURES + 5)
    join().turn(100)
    (send, *_) = telemetry.spans("send")
    assert len(send.events) == MAX_FAILURES
    assert send.status.description == f"{MAX_FAILURES + 5} of {MAX_FAILURES + 5} failed: busy"


def test_a_broker_that_is_away_is_an_error(
    database: str, telemetry: Telemetry, scripted: Script, join: Join
) -> None:
    """What the backend raises ends the span, counts every event, and times the exchange."""

    def raise_unavailable(messages: list[Message]) -> None:
        raise BackendUnavailable("connection refused")

    scripted.answer = raise_unavailable
    publish("a1", "b1", using=database)
    join().turn(100)
    send = telemetry.span("send")
    assert (send.status.status_code, send.status.description) == (
        StatusCode.ERROR,
        "connection refused",
    )
    labels = {
        "messaging.system": "django_broadcaster",
        "messaging.destination.name": "default",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "error.type": "BackendUnavailable",
    }
    found = telemetry.metrics()
    assert found["messaging.client.sent.messages"] == [(labels, 2)]
    assert found["messaging.client.operation.duration"] == [(labels, 1)]


# --- Handlers ------------------------------------------------------------------------------------


def test_handlers_that_share_a_transaction_go_on_with_their_events_traces(
    routed: str,
    telemetry: Telemetry,
    handle: Callable[[Any], None],
    join: Join,
    settings: Settings,
) -> None:
    """Each has a span and a duration of its own, within the trace of its event."""
    settings.OUTBOX_PUBLISHERS = {"default": LOCAL}
    handle(lambda event: None)
    for number in range(3):
        with telemetry.tracer.start_as_current_span(f"request {number}"):
            place(routed)
    drain(join())
    assert len(telemetry.spans("send default")) == 1  # they were one batch
    requests = [telemetry.span(f"request {number}") for number in range(3)]
    handled = telemetry.spans("process order.placed")
    assert [trace_of(span) for span in handled] == [trace_of(span) for span in requests]
    ((labels, count),) = telemetry.metrics()["messaging.client.consumed.messages"]
    assert (labels["messaging.consumer.group.name"], count) == ("handler", 3)


def test_a_handler_that_fails_is_an_error(
    routed: str, telemetry: Telemetry, handle: Callable[[Any], None]
) -> None:
    """Its exception is on the span, and in the figures; the caller still gets it."""

    def fail(event: CloudEvent) -> None:
        raise ZeroDivisionError("no stock")

    handle(fail)
    (handler,) = event_registry.handlers_for("a")
    with pytest.raises(ZeroDivisionError):
        process(CloudEvent(event_type="a", source="/s"), handler)
    span = telemetry.span("process a")
    assert span.parent is None
    assert span.status.status_code is StatusCode.ERROR
    (raised,) = span.events
    assert raised.attributes is not None
    assert raised.attributes["exception.message"] == "no stock"
    ((labels, number),) = telemetry.metrics()["messaging.client.consumed.messages"]
    assert (labels["error.type"], number) == ("ZeroDivisionError", 1)
    assert telemetry.metrics()["messaging.process.duration"][0][0] == labels


def test_an_exception_of_a_handler_shows_no_secret(
    routed: str, telemetry: Telemetry, handle: Callable[[Any], None], settings: Settings
) -> None:
    """A handler that uses the same broker may be told the password by its client."""
    settings.OUTBOX_PUBLISHERS = {"default": {**LOCAL, "OPTIONS": {"password": "tea4two-please"}}}

    def fail(event: CloudEvent) -> None:
        raise OSError("can't log in with 'tea4two-please'")

    handle(fail)
    (handler,) = event_registry.handlers_for("a")
    with pytest.raises(OSError, match="can't log in"):
        process(CloudEvent(event_type="a", source="/s"), handler)
    (raised,) = telemetry.span("process a").events
    assert raised.attributes is not None
    assert raised.attributes["exception.message"] == "can't log in with '***'"
    assert "tea4two" not in telemetry.span("process a").to_json()


def test_the_payload_in_an_error_is_on_no_span_of_the_relay(
    database: str, telemetry: Telemetry, scripted: Script, join: Join
) -> None:
    """Of an error that nobody foresaw there is the kind, as in the log."""

    def quote(messages: list[Message]) -> list[DeliveryError]:
        return [as_delivery_error(ValueError(f"can't read {messages[0].data_json}"))]

    scripted.answer = quote
    publish("a1", using=database)
    join().turn(100)
    (row,) = OutboxEvent.objects.using(database)
    assert "can't read" in row.last_error
    spans = [span.to_json() for span in telemetry.spans()]
    assert any("ValueError" in span for span in spans)
    assert not any("can't read" in span for span in spans)


# --- The outbox ----------------------------------------------------------------------------------


def test_a_relay_shows_the_outbox(routed: str, telemetry: Telemetry, settings: Settings) -> None:
    """The same figures as for Prometheus, from the process of a relay, by one look at each."""
    settings.OUTBOX_PUBLISHERS = {"default": DUMMY}
    publish("a1", "b1", using=routed)
    pause(OutboxBackendState.objects.using(routed).all(), "default")
    assert "outbox.up" not in telemetry.metrics()
    with working(routed):
        wait_until(lambda: "outbox.up" in telemetry.metrics(), 10, "the relay to begin")
        with statements() as run:
            found = telemetry.metrics()
    assert len(run) <= 1
    assert found["outbox.up"] == [({}, 1)]
    backlog = {labels["status"]: number for labels, number in found["outbox.backlog"]}
    assert backlog == {"pending": 2, "scheduled": 0, "retry": 0, "blocked": 0, "failed": 0}
    ((labels, lag),) = found["outbox.lag"]
    assert labels == {"backend": "default"}
    assert lag > 0
    assert found["outbox.paused"] == [({"backend": "default"}, 1)]
    assert {"outbox.relays", "outbox.free_partitions"} <= found.keys()


def test_a_relay_measures_the_latency(
    database: str, scripted: Script, telemetry: Telemetry
) -> None:
    """The same histogram as for Prometheus, per backend, from due to delivered."""
    publish("a1", "b1", using=database)
    with working(database):
        wait_until(lambda: "outbox.delivery.latency" in telemetry.metrics(), 10, "the latency")
    ((labels, count),) = telemetry.metrics()["outbox.delivery.latency"]
    assert labels == {"backend": "default"}
    assert 1 <= count <= 2


def test_the_last_call_counts(routed: str) -> None:
    """`opentelemetry-instrument` may have turned it on already, with other providers."""
    first, second = InMemoryMetricReader(), InMemoryMetricReader()

    def names(reader: InMemoryMetricReader) -> set[str]:
        data = reader.get_metrics_data()
        resources = data.resource_metrics if data else []
        scopes = [scope for each in resources for scope in each.scope_metrics]
        return {metric.name for scope in scopes for metric in scope.metrics}

    try:
        for reader in (first, second):
            instrument(meter_provider=MeterProvider([reader]))
            relay_started.send(sender=None, database=routed, backends=["default"])
        assert "outbox.up" not in names(first)
        assert "outbox.up" in names(second)
    finally:
        uninstrument()
    assert not names(second)


def test_a_database_that_is_away_is_a_gauge(
    committing: None, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`outbox.up` says why the rest is missing, and no reader of metrics fails."""
    connection = connections["default"]
    connection.close()
    if connection.vendor == "sqlite":
        pytest.skip("a file is never away")
    relay_started.send(sender=None, database="default", backends=["default"])
    with monkeypatch.context() as patch:
        patch.setitem(connection.settings_dict, "PORT", str(free_port()))
        found = telemetry.metrics()
    connection.close()
    assert found["outbox.up"] == [({}, 0)]
    assert "outbox.backlog" not in found


# --- Turning it on -------------------------------------------------------------------------------


def test_it_is_off_unless_it_is_asked_for(database: str, telemetry: Telemetry) -> None:
    """Turned off, nothing is stamped, and nothing exported."""
    from django_broadcaster.instrumentation.opentelemetry import uninstrument

    uninstrument()
    with telemetry.tracer.start_as_current_span("request"):
        place(database)
    assert extensions(database) == [{}]
    assert [span.name for span in telemetry.spans()] == ["request"]


def test_opentelemetry_finds_it_by_its_entry_point(committing: None) -> None:
    """The project's own interface turns it on with given providers, and off."""
    (found,) = entry_points(group="opentelemetry_instrumentor", name="django_broadcaster")
    instrumentor = found.load()()
    telemetry = Telemetry()
    instrumentor.instrument(
        tracer_provider=telemetry.tracers, meter_provider=telemetry.meters, skip_dep_check=True
    )
    try:
        with telemetry.tracer.start_as_current_span("request"):
            place("default")
    finally:
        instrumentor.uninstrument()
        telemetry.close()
    assert telemetry.span("create default")
    assert tracing.installed() is None


def test_the_command_turns_it_on() -> None:
    """`opentelemetry-instrument` runs a program that then has a tracer, before Django is set up."""
    program = "from django_broadcaster import tracing; print(type(tracing.installed()).__name__)"
    command = Path(sys.executable).with_name("opentelemetry-instrument")
    done = subprocess.run(
        [command, sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "SpanTracer", done.stderr


@pytest.mark.parametrize("processes", [1, 2])
def test_every_process_of_a_relay_is_instrumented(
    database: str, workers: Workers, tmp_path: Path, processes: int
) -> None:
    """Whichever process delivers exports its spans: they are started anew, not forked."""
    with (
        instrumented() as telemetry,
        telemetry.tracer.start_as_current_span("request"),
        transaction.atomic(using=database),
    ):
        for number in range(20):
            place(database, partition_key=str(number))
    exported = tmp_path / "spans"
    worker = workers.start(
        database,
        *("--database", database, "--batch-size", "2", "--processes", str(processes)),
        OUTBOX_PUBLISHERS={"default": {"BACKEND": "tests.support.traced_process.TracedBackend"}},
        EXPORTED_SPANS=str(exported),
    )
    delivered = lambda: set(statuses(database).values()) == {"published"}  # noqa: E731
    wait_until(delivered, 30, "every event to be delivered")
    worker.stop()
    assert worker.end() == 0
    trace = f"0x{trace_of(telemetry.span('request')):032x}"
    files = tmp_path.glob(f"{exported.name}-*")
    lines = [line for file in files for line in file.read_text().splitlines()]
    batches = [json.loads(line)["attributes"]["messaging.batch.message_count"] for line in lines]
    assert sum(batches) >= 20, batches
    assert all(trace in line for line in lines)
