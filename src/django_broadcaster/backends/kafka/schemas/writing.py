"""Encode the data of events for the backend, by the schema of their type."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from django_broadcaster.events.grammar import is_json_type
from django_broadcaster.events.json_format import parse_json
from django_broadcaster.exceptions import (
    BackendUnavailable,
    DeliveryError,
    Rejected,
    TransientError,
)
from django_broadcaster.typed_events.codec import Mismatch

from ...base import Message
from ...bindings import KAFKA, WireMessage
from ...options import OptionReader
from .formats import FORMATS
from .registry import OPTIONS, SchemaForbidden, SchemaProblem, SchemaRegistry

SUBJECTS: Final[Mapping[str, Callable[[str, str], str]]] = {
    "topic": lambda topic, name: f"{topic}-value",
    "record": lambda topic, name: name,
    "topic_record": lambda topic, name: f"{topic}-{name}",
}
"""How the subject of a schema is named after the topic and the record."""

KEYS: Final = OPTIONS | {"format", "register", "schemas", "subject"}

Encode = Callable[[Any], bytes]
"""Returns data in the wire format; raises Mismatch."""

Pair = tuple[str, str]
"""An event type and a topic."""


class ValueWriter:
    """The option `schema_registry` of the backend, and the schemas that the registry has by now.

    Args:
        read: Reads the options of the backend.
        options: The option.
    """

    def __init__(self, read: OptionReader, options: Mapping[str, Any]) -> None:
        read.mapping("schema_registry", options, KEYS)
        within = read.within("schema_registry")
        name = within.choice("format", options.get("format", "avro"), FORMATS)
        schemas = within.mapping("schemas", options.get("schemas", {}))
        within.require("schemas", type(schemas), bool(schemas), "a schema for each event type")
        self._format = FORMATS[name](within.within("schemas"), schemas)
        self._register = within.flag("register", options.get("register", True))
        self._subject = SUBJECTS[
            within.choice("subject", options.get("subject", "topic"), SUBJECTS)
        ]
        self._registry = SchemaRegistry(within, options, self._format.client)
        self._encoders: dict[Pair, Encode] = {}
        self._problems: dict[Pair, DeliveryError] = {}

    def prepare(
        self,
        messages: Sequence[Message],
        topics: Sequence[object],
        on_progress: Callable[[], object],
    ) -> None:
        """Ask the registry for the schemas of messages, each once.

        A schema that the registry refuses is asked for again with the next batch. After the first
        call that was not answered, the registry is not asked for the others of the batch. Events
        that need it fail then without a retry, while the rest of the batch is sent.

        Raises:
            BackendUnavailable: The registry is unavailable, no schema is known, and each of the
                events needs one.
        """
        self._problems.clear()
        pairs = [
            (message.event_type, topic)
            if isinstance(topic, str) and message.data_json is not None
            else None
            for message, topic in zip(messages, topics, strict=True)
        ]
        outages = self._ask_for(
            sorted({each for each in pairs if each} - self._encoders.keys()), on_progress
        )
        if not self._encoders and all(pair in outages for pair in pairs):
            for error in outages.values():
                if not isinstance(error, SchemaForbidden):
                    raise error
        for pair, error in outages.items():
            failure = TransientError(f"schema of {pair[0]!r}: {error}", spends_retry=False)
            failure.__cause__ = error
            is_forbidden = isinstance(error, SchemaForbidden)
            verb = "refuses the schema" if is_forbidden else "is unavailable"
            failure.reason = f"the schema registry {verb}"
            self._problems[pair] = failure

    def _ask_for(
        self, pairs: Sequence[Pair], on_progress: Callable[[], object]
    ) -> dict[Pair, BackendUnavailable]:
        """Ask the registry for schemas; return those for which it is unavailable, and why."""
        outages: dict[Pair, BackendUnavailable] = {}
        outage: BackendUnavailable | None = None
        for pair in pairs:
            event_type, topic = pair
            schema = self._format.schema(event_type)
            if schema is None:
                continue
            if outage is not None:
                outages[pair] = outage
                continue
            on_progress()
            subject = self._subject(topic, schema.name)
            try:
                self._encoders[pair] = schema.register(
                    self._registry, topic=topic, subject=subject, register=self._register
                )
            except SchemaProblem as error:
                failure = TransientError(f"schema of {event_type!r}, subject {subject!r}: {error}")
                failure.__cause__ = error
                failure.reason = f"no schema for {event_type!r} in the registry"
                self._problems[pair] = failure
            except SchemaForbidden as error:
                outages[pair] = error
            except BackendUnavailable as error:
                outages[pair] = outage = error
        return outages

    def encode(self, message: Message, topic: str) -> WireMessage:
        """Return a message in binary mode, with its data in the wire format.

        Raises:
            Rejected: The data do not fit the schema, or the event type has none.
            TransientError: The registry refuses the schema, or is unavailable.
        """
        wire = self.shown(message)
        if wire.body is None:
            return wire
        pair = message.event_type, topic
        if pair in self._problems:
            raise self._problems[pair]
        try:
            body = self._encoders[pair](parse_json(wire.body))
        except Mismatch as error:
            failure = Rejected(f"{error.field}: {error}")
            failure.details = str(error.__cause__ or "")  # which may have values
            failure.reason = "the data do not fit the schema"
            raise failure from error
        return wire._replace(body=body)

    def shown(self, message: Message) -> WireMessage:
        """Return a message in binary mode, with its data as JSON in place of the wire format.

        Raises:
            Rejected: The data are not JSON, or the event type has no schema.
        """
        wire = KAFKA.encode(message, "binary")
        if wire.body is None:
            return wire
        if message.data_json is None or not is_json_type(wire.content_type):
            raise Rejected(
                f"data: must be JSON to be encoded by a schema, not {wire.content_type!r}"
            )
        if self._format.schema(message.event_type) is None:
            raise Rejected(
                f"type: {message.event_type!r} has no schema; add it to 'schemas' in the option "
                "'schema_registry' of the backend"
            )
        return wire._replace(content_type=self._format.content_type)

    def encoding(self, event_type: str) -> Mapping[str, Any] | None:
        """Return how data of an event type are encoded, in AsyncAPI's words; None without any."""
        schema = self._format.schema(event_type)
        if schema is None:
            return None
        location = {"schemaIdLocation": "payload", "schemaIdPayloadEncoding": "confluent"}
        return {**schema.members, "bindings": {"kafka": location}}
