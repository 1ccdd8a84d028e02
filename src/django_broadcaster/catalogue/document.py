"""One AsyncAPI 3.0 document of all declared events, backends, consumers and handlers.

https://www.asyncapi.com/docs/reference/specification/v3.0.0

Addresses of brokers and webhooks differ between environments and may have credentials, so a server
has a variable instead of a host. Destinations come from `MessageBackend.show`, which leaves secrets
out, and `payloads` leaves out those that are addresses of webhooks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from django.utils.module_loading import autodiscover_modules

from django_broadcaster.backends.base import MessageBackend
from django_broadcaster.backends.bindings import BindingBackend
from django_broadcaster.backends.handler import backends
from django_broadcaster.consumers.base import Consumer
from django_broadcaster.consumers.handler import consumers
from django_broadcaster.exceptions import UnknownBackend
from django_broadcaster.publishing.destinations import routed
from django_broadcaster.registry import Handler, event_registry

from .changes import OF_MODEL
from .declared import DeclaredEvent, declared_events
from .names import Names, schema_name
from .payloads import FIELDS, Payload, payload_of
from .schemas import COMPONENTS, components_of, owner_of

PROTOCOLS: Final = {
    "aws.sns": "sns",
    "aws_sqs": "sqs",
    "celery": "celery",
    "kafka": "kafka",
    "mqtt": "mqtt5",
    "nats": "nats",
    "rabbitmq": "amqp",
    "redis": "redis",
    "webhook": "https",
}
"""The protocols of AsyncAPI, by the names of the systems in traces."""

ADDRESSES: Final = (
    "topic",
    "routing_key",
    "subject",
    "stream",
    "queue_url",
    "topic_arn",
    "queue",
    "task",
)
"""The names of a destination of which the first one is the address of a channel."""

GROUPS: Final = ("exchange",)
"""The names that are also part of the name of a channel."""

MEANINGS: Final = {
    "id": "The id of the event.",
    "source": "The source of the event.",
    "subject": "The subject of the event.",
    "key": "The partition key of the event.",
}

_OF_PATTERNS: Final = re.compile(r"[*?\[]")


def load_events() -> None:
    """Import the module `events` of each app, where it has one; raises what the import raises."""
    autodiscover_modules("events")


def asyncapi_document(title: str, version: str) -> dict[str, Any]:
    """Return the AsyncAPI document of the project, in a stable order.

    Args:
        title: The name of the application.
        version: The version of its interface.

    Raises:
        CatalogueError: Two parts have the same name.
        ImportError: A library that makes JSON Schemas is missing.
        TypeError: A field has a type without a JSON Schema.
        BackendConfigurationError: A setting is invalid.
    """
    return _Document(title, version).as_dict()


class _Document:
    """The parts of a document while they are put together."""

    def __init__(self, title: str, version: str) -> None:
        self._declared = declared_events()
        self._info = {"title": title, "version": version}
        self._events: dict[str, Any] = {}
        self._servers: dict[str, Any] = {}
        self._channels: dict[str, Any] = {}
        self._operations: dict[str, Any] = {}
        self._messages: dict[str, Any] = {}
        self._schemas: dict[str, Any] = {}
        self._names = {each: Names() for each in ("servers", "channels", "messages", "schemas")}

    def as_dict(self) -> dict[str, Any]:
        """Return the whole document."""
        declared = [*self._declared.values()]
        for event in declared:
            self._add_event(event)
        senders = {alias: backends.create(alias) for alias in sorted(backends.aliases())}
        for event in declared:
            for alias in _backends_of(event):
                self._add_sent(event, alias, senders[alias])
        for alias in sorted(consumers.aliases()):
            self._add_consumer(alias, declared)
        return {
            "asyncapi": "3.0.0",
            "info": self._info,
            "defaultContentType": "application/json",
            "servers": self._servers,
            "channels": dict(sorted(self._channels.items())),
            "operations": dict(sorted(self._operations.items())),
            "components": {
                "messages": dict(sorted(self._messages.items())),
                "schemas": dict(sorted(self._schemas.items())),
            },
            "x-events": self._events,
        }

    def _add_event(self, event: DeclaredEvent) -> None:
        for text, owner, schema in components_of(event):
            self._schemas[self._names["schemas"].add(text, owner)] = schema
        self._events[event.type] = {
            "class": event.path,
            "description": event.description,
            "version": event.version,
            "upcasters": event.upcasters,
            "source": event.source,
            "sent": not _is_of_others(event),
            "schema": _data_of(event),
            **({OF_MODEL: True} if event.is_of_model else {}),
        }

    def _add_sent(self, event: DeclaredEvent, alias: str, backend: MessageBackend) -> None:
        """Add an event as a backend sends it."""
        payload = payload_of(event, backend, _data_of(event))
        name, message = self._add_message(
            f"publisher.{alias}", event.type, _message(event, backend, payload)
        )
        handlers = event_registry.handlers_for(event.type) if backend.runs_handlers else []
        destination = {} if backend.runs_handlers else payload.destination
        server = self._add_server("publisher", alias, backend.system)
        channel = self._add_channel(f"publisher.{alias}", destination, server)
        self._channels[channel]["messages"][name] = {"$ref": f"#/components/messages/{message}"}
        self._add_operation("send", channel, name, f"Backend {alias}")
        if handlers:
            self._add_operation("receive", channel, name, f"Handlers of backend {alias}")
            self._add_handlers(channel, event.type, handlers)

    def _add_consumer(self, alias: str, declared: list[DeclaredEvent]) -> None:
        """Add what a consumer reads, and the handlers of its events."""
        consumer = consumers.create(alias)
        server = self._add_server("consumer", alias, consumer.system)
        received = dict(_received(alias, declared))
        for origin in consumer.origins() or [{}]:
            channel = self._add_channel(f"consumer.{alias}", origin, server)
            for event_type, handlers in sorted(received.items()):
                name, message = self._add_message(
                    f"consumer.{alias}", event_type, self._received_message(event_type, consumer)
                )
                reference = {"$ref": f"#/components/messages/{message}"}
                self._channels[channel]["messages"][name] = reference
                self._add_operation("receive", channel, name, f"Consumer {alias}")
                self._add_handlers(channel, event_type, handlers)

    def _received_message(self, event_type: str, consumer: Consumer) -> dict[str, Any]:
        event = self._declared.get(event_type)
        found: dict[str, Any] = {"name": event_type} if event is None else _description(event)
        found["description"] = (
            "A CloudEvent in structured or binary mode. The payload is the schema of its data."
        )
        if consumer.content_type:
            found["contentType"] = consumer.content_type
            found["description"] = (
                "A CloudEvent in binary mode. The payload is the schema of its data after decoding."
            )
        return found if event is None else {**found, "payload": _data_of(event)}

    def _add_message(self, owner: str, event_type: str, message: Any) -> tuple[str, str]:
        """Add a message; return its name in a channel, and the one among all messages."""
        words = f"{owner_of(event_type)} of {owner!r}"
        name = self._names["messages"].add(f"{owner}.{event_type}", words)
        self._messages[name] = message
        return schema_name(event_type), name

    def _add_server(self, side: str, alias: str, system: str) -> str:
        """Add the broker of a backend or a consumer; return its name, empty if there is none."""
        if system not in PROTOCOLS:
            return ""
        name = self._names["servers"].add(f"{side}.{alias}", f"{side} {alias!r}")
        self._servers[name] = {
            "host": "{address}",
            "protocol": PROTOCOLS[system],
            "description": f"The broker of the {side} {alias}.",
            "variables": {"address": {"description": "Depends on the environment."}},
        }
        return name

    def _add_channel(self, owner: str, destination: Mapping[str, Any], server: str) -> str:
        """Add a destination or an origin; return its name."""
        address = next((destination[each] for each in ADDRESSES if each in destination), None)
        groups = [destination[each] for each in GROUPS if each in destination]
        texts = [*groups, *([] if address is None else [address])]
        name = self._names["channels"].add(
            ".".join([owner, *texts]), f"channel {texts} of {owner!r}"
        )
        if name in self._channels:
            return name
        channel: dict[str, Any] = {"address": address, "messages": {}}
        if server:
            channel["servers"] = [{"$ref": f"#/servers/{server}"}]
        parameters = [each for each in FIELDS if address and f"{{{each}}}" in address]
        if parameters:
            channel["parameters"] = {each: {"description": MEANINGS[each]} for each in parameters}
        if bindings := _channel_bindings(destination, self._servers.get(server, {})):
            channel["bindings"] = bindings
        self._channels[name] = channel
        return name

    def _add_operation(self, action: str, channel: str, message: str, summary: str) -> None:
        operation = self._operations.setdefault(
            f"{action}.{channel}",
            {
                "action": action,
                "channel": {"$ref": f"#/channels/{channel}"},
                "summary": summary,
                "messages": [],
            },
        )
        operation["messages"].append({"$ref": f"#/channels/{channel}/messages/{message}"})

    def _add_handlers(self, channel: str, event_type: str, handlers: list[Handler]) -> None:
        names = [each.name for each in handlers]
        self._operations[f"receive.{channel}"].setdefault("x-handlers", {})[event_type] = names


def _data_of(event: DeclaredEvent) -> dict[str, str]:
    return {"$ref": f"{COMPONENTS}{schema_name(event.type)}"}


def _is_of_others(event: DeclaredEvent) -> bool:
    """Return True for an event of another service: each of its handlers names consumers.

    A model's event type is one of this project.
    """
    if event.is_of_model:
        return False
    handlers = [each for each in event_registry if each.matches_type(event.type)]
    return bool(handlers) and all(each.consumers for each in handlers)


def _backends_of(event: DeclaredEvent) -> list[str]:
    """Return the aliases of the backends of an event that is published here."""
    if _is_of_others(event):
        return []
    try:
        aliases = routed(event.type, backends.default_alias)
    except UnknownBackend:
        return []
    further = backends.of_handlers(event.type)
    return sorted({*aliases, *([further] if further else [])})


def _received(alias: str, declared: list[DeclaredEvent]) -> Iterator[tuple[str, list[Handler]]]:
    """Yield each event of a consumer with its handlers.

    They are those whose handlers name the consumer. If no handler names it, they are all events
    with a handler that names none.
    """
    handlers = [each for each in event_registry if alias in each.consumers]
    if not handlers:
        handlers = [each for each in event_registry if not each.consumers]
    types = {each.type for each in declared}
    types |= {
        pattern
        for handler in handlers
        for pattern in handler.patterns
        if not _OF_PATTERNS.search(pattern)
    }
    for event_type in sorted(types):
        found = [each for each in handlers if each.matches(event_type, alias)]
        if found:
            yield event_type, found


def _message(event: DeclaredEvent, backend: MessageBackend, payload: Payload) -> dict[str, Any]:
    found: dict[str, Any] = {**_description(event), "contentType": payload.content_type}
    if payload.headers is not None:
        found["headers"] = payload.headers
    if payload.body is not None:
        found["payload"] = payload.body
    found |= payload.encoding
    if isinstance(backend, BindingBackend):
        found["x-content-mode"] = backend.content_mode
    if backend.system == "kafka" and "key" in payload.destination:
        binding = found.get("bindings", {}).get("kafka", {})
        found["bindings"] = {"kafka": {**binding, "key": {"type": "string"}}}
    if payload.destination and not backend.runs_handlers:
        found["x-destination"] = payload.destination
    return found


def _description(event: DeclaredEvent) -> dict[str, Any]:
    found = {"name": event.type, "title": event.title}
    if event.description:
        found["summary"] = event.description.splitlines()[0]
    return found


def _channel_bindings(
    destination: Mapping[str, Any], server: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return what the bindings of AsyncAPI say of a channel."""
    if "exchange" in destination:
        return {"amqp": {"is": "routingKey", "exchange": {"name": destination["exchange"]}}}
    if server.get("protocol") == "amqp" and "queue" in destination:
        return {"amqp": {"is": "queue", "queue": {"name": destination["queue"]}}}
    return None
