"""The spans of OpenTelemetry's conventions for messaging.

https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/

Publishing one event creates a message ("create"); that span is the creation context. In the
conventions "create" is for single messages, so publishing many events is a "send" to the outbox.
The relay's call to the broker is another "send".
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from traceback import format_exception
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)

from django_broadcaster.events import TRACEPARENT, CloudEvent
from django_broadcaster.exceptions import DeliveryError, Held
from django_broadcaster.redaction import masked

from .contexts import carried, stamped
from .measures import ERROR_TYPE, Measures

if TYPE_CHECKING:
    from django_broadcaster.backends.base import Message, MessageBackend, Outcome
    from django_broadcaster.registry import Handler

SYSTEM: Final = "django_broadcaster"
MAX_LINKS: Final = 128
"""OpenTelemetry's default limit for the links of a span."""

MAX_FAILURES: Final = 32
"""The limit for failed messages of a batch that have an event each on the span."""

_DESTINATION: Final = "messaging.destination.name"
_MESSAGE_ID: Final = "messaging.message.id"
_COUNT: Final = "messaging.batch.message_count"

Attributes = dict[str, str | int]


class SpanTracer:
    """Creates and measures spans; see `django_broadcaster.tracing`."""

    def __init__(self, tracer: Tracer, measures: Measures) -> None:
        self._tracer = tracer
        self._measures = measures

    @contextmanager
    def publishing(
        self, event: CloudEvent | None, aliases: Sequence[str]
    ) -> Iterator[Callable[[CloudEvent], CloudEvent]]:
        """Trace a publish call within a span; its events carry the new span."""
        is_traced = event is not None and TRACEPARENT in event.extensions
        if is_traced or not get_current_span().get_span_context().is_valid:
            yield _unchanged
            return
        operation = ("publish", "send") if event is None else ("create", "create")
        destination = aliases[0] if len(aliases) == 1 else ""
        attributes: Attributes = {**_attributes(SYSTEM, operation, destination)}
        if event is not None:
            attributes |= {_MESSAGE_ID: event.id, **_cloud_event(event)}
        with self._span(operation[0], destination, SpanKind.PRODUCER, attributes) as span:
            if event is not None:
                yield stamped
                return
            count = 0

            def stamp(each: CloudEvent) -> CloudEvent:
                nonlocal count
                count += 1
                return stamped(each)

            try:
                yield stamp
            finally:
                span.set_attribute(_COUNT, count)

    @contextmanager
    def sending(
        self, backend: MessageBackend, messages: Sequence[Message]
    ) -> Iterator[Callable[[Sequence[Outcome]], None]]:
        """Trace and measure a call to a broker."""
        labels = _attributes(backend.system, ("send", "send"), backend.alias)
        attributes: Attributes = {**labels}
        if len(messages) == 1:
            attributes[_MESSAGE_ID] = messages[0].event_id
        else:
            attributes[_COUNT] = len(messages)
        contexts = _creation_contexts(messages)
        parent = None
        if len(contexts) == 1 and all(TRACEPARENT in each.extensions for each in messages):
            parent = _child_of(contexts[0])
        counts: Counter[str] = Counter()
        failure = ""

        def note(outcomes: Sequence[Outcome]) -> None:
            nonlocal failure
            counts.update(type(each).__name__ if each else "" for each in outcomes)
            counts.pop(Held.__name__, None)  # those were not sent
            failure = _record_failures(span, messages, outcomes)

        began = time.perf_counter()
        links = [Link(context) for context in contexts]
        try:
            with self._span(
                "send", backend.alias, SpanKind.CLIENT, attributes, parent, links
            ) as span:
                yield note
        except BaseException as error:
            failure = type(error).__name__
            counts[failure] = len(messages)
            raise
        finally:
            self._measures.sent(labels, time.perf_counter() - began, counts, failure)

    @contextmanager
    def processing(self, event: CloudEvent, handler: Handler) -> Iterator[Callable[[Any], None]]:
        """Trace and measure a handler; the event's span is the parent."""
        labels = _attributes(SYSTEM, ("process", "process"), event.type)
        labels["messaging.consumer.group.name"] = handler.name
        attributes: Attributes = {**labels, _MESSAGE_ID: event.id, **_cloud_event(event)}
        parent, links = None, []
        context = carried(event.extensions)
        if context.is_valid:
            parent = _child_of(context)
            around = get_current_span().get_span_context()
            links = [Link(each) for each in (context, around) if each.is_valid]
        began, failure = time.perf_counter(), ""
        try:
            with self._span(
                "process", event.type, SpanKind.CONSUMER, attributes, parent, links
            ) as span:
                try:
                    yield lambda _: None
                except Exception as error:
                    span.record_exception(error, _without_secrets(error))
                    raise
        except BaseException as error:
            failure = type(error).__name__
            raise
        finally:
            self._measures.processed(labels, time.perf_counter() - began, failure)

    @contextmanager
    def _span(
        self,
        operation: str,
        destination: str,
        kind: SpanKind,
        attributes: Mapping[str, str | int],
        parent: Context | None = None,
        links: Sequence[Link] = (),
    ) -> Iterator[Span]:
        """Run the block within a span; an exception sets the span's error."""
        with self._tracer.start_as_current_span(
            f"{operation} {destination}".rstrip(),
            context=parent,
            kind=kind,
            attributes=attributes,
            links=links,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as error:
                # Messages of other exceptions may contain payloads.
                text = str(error) if isinstance(error, DeliveryError) else ""
                _fail(span, type(error).__name__, text)
                raise


def _unchanged(event: CloudEvent) -> CloudEvent:
    return event


def _attributes(system: str, operation: tuple[str, str], destination: str) -> dict[str, str]:
    """Return the common attributes of spans and metrics; an operation has a name and a type."""
    attributes = {
        "messaging.system": system,
        "messaging.operation.name": operation[0],
        "messaging.operation.type": operation[1],
    }
    return {**attributes, _DESTINATION: destination} if destination else attributes


def _cloud_event(event: CloudEvent) -> Attributes:
    return {
        "cloudevents.event_id": event.id,
        "cloudevents.event_source": event.source,
        "cloudevents.event_type": event.type,
    }


def _child_of(context: SpanContext) -> Context:
    return set_span_in_context(NonRecordingSpan(context), Context())


def _creation_contexts(messages: Sequence[Message]) -> list[SpanContext]:
    """Return the distinct trace contexts of messages, up to `MAX_LINKS`."""
    found: dict[object, SpanContext] = {}
    for message in messages:
        parent = message.extensions.get(TRACEPARENT)
        if parent is None or parent in found:
            continue
        context = carried(message.extensions)
        if context.is_valid:
            found[parent] = context
            if len(found) == MAX_LINKS:
                break
    return list(found.values())


def _record_failures(span: Span, messages: Sequence[Message], outcomes: Sequence[Outcome]) -> str:
    """Add the failures of a batch to its span; return the type of the first, or ""."""
    failed = [
        (message, outcome)
        for message, outcome in zip(messages, outcomes, strict=True)
        if outcome is not None and not isinstance(outcome, Held)
    ]
    if not failed:
        return ""
    for message, error in failed[:MAX_FAILURES]:
        details: Attributes = {
            _MESSAGE_ID: message.event_id,
            "messaging.delivery.attempt": message.attempt,
            ERROR_TYPE: type(error).__name__,
        }
        span.add_event("message.failed", details)
    error = failed[0][1]
    first = type(error).__name__
    # Unexpected errors have messages of handlers or clients, which may contain payloads.
    text = str(error) if error.unforeseen is None else type(error.unforeseen).__name__
    _fail(span, first, f"{len(failed)} of {len(messages)} failed: {text}")
    return first


def _without_secrets(error: BaseException) -> Attributes:
    """Return the attributes of a recorded exception, with the secrets of the settings masked.

    https://opentelemetry.io/docs/specs/semconv/exceptions/exceptions-spans/
    """
    return {
        "exception.message": masked(str(error)),
        "exception.stacktrace": masked("".join(format_exception(error))),
    }


def _fail(span: Span, kind: str, text: str) -> None:
    span.set_attribute(ERROR_TYPE, kind)
    span.set_status(Status(StatusCode.ERROR, masked(text) or None))
