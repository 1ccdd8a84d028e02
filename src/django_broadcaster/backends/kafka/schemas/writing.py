"""Encode the data of events for the backend, by the schema of their type."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from django_broadcaster.events.grammar import is_json_type
from django_broadcaster.events.json_format import parse_json
from django_broadcaster.exceptions import BackendUnavailable, Rejected, TransientError
from django_broadcaster.typed_events.codec import Mismatch

from ...base import Message
from ...bindings import KAFKA, WireMessage
from ...options import OptionReader
from ...pauses import Pauses
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

REGISTRY: Final = ""
"""The registry as a whole, beside the names of pairs."""


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
        self._errors: dict[Pair, Exception] = {}
        """Why there is no encoder: the last error of each pair that was needed and is not known."""
        self._pauses = Pauses()
        """For how long pairs are not asked for, by their names, and the registry as `REGISTRY`."""
        self._outage: BackendUnavailable | None = None
        """The last error of a registry that did not answer."""
        self._unanswered: Pair | None = None
        """The pair whose call had no answer; it is asked for last."""
        self._tried: dict[Pair, Message | None] = {}
        """The pairs that were asked for with this batch, each with its first event that failed."""

    def prepare(
        self,
        messages: Sequence[Message],
        topics: Sequence[object],
        on_progress: Callable[[], object],
    ) -> None:
        """Ask the registry for the schemas of messages, each once.

        A schema that the registry refuses is asked for again with the next batch. After a call that
        was not answered, the registry is not asked for any schema until a pause has ended. Events
        that need one fail then without a retry, while the rest of the batch is sent. A schema for
        which the permission is missing has a pause of its own.

        Raises:
            BackendUnavailable: The registry is unavailable, no schema is known, and each of the
                events needs one.
        """
        self._tried.clear()
        pairs = [
            (message.event_type, topic)
            if isinstance(topic, str) and message.data_json is not None
            else None
            for message, topic in zip(messages, topics, strict=True)
        ]
        unknown = {
            pair
            for pair in pairs
            if pair and pair not in self._encoders and self._format.schema(pair[0]) is not None
        }
        if not unknown:
            return
        last = self._unanswered
        waiting = self._ask_for(sorted(unknown, key=lambda each: (each == last, each)), on_progress)
        if not self._encoders and unknown.issuperset(pairs):
            self._raise_if_away(unknown)
        for pair in waiting:
            self._pauses.failed(_name(pair), 0.0)
        if self._unanswered in self._tried:
            self._pauses.failed(REGISTRY, 0.0)

    def returned(self) -> Collection[str]:
        """Return the names of pairs for which the registry has answered again."""
        return self._pauses.returned()

    def _raise_if_away(self, pairs: Collection[Pair]) -> None:
        """Raise BackendUnavailable if the registry is unavailable for all of these pairs.

        If the login lacks a permission for each of them, the registry is available for others.
        """
        errors = [self._errors[pair] for pair in pairs]
        outages = [error for error in errors if not isinstance(error, SchemaForbidden)]
        if outages and all(isinstance(error, BackendUnavailable) for error in outages):
            left = self._pauses.seconds_left(REGISTRY)
            failure = BackendUnavailable(str(outages[0]), retry_after=left)
            raise failure from outages[0].__cause__

    def _ask_for(self, pairs: Sequence[Pair], on_progress: Callable[[], object]) -> list[Pair]:
        """Ask the registry for schemas; return the pairs for which a pause is to begin."""
        outage = self._outage if self._pauses.seconds_left(REGISTRY) else None
        waiting = []
        for pair in pairs:
            if self._pauses.seconds_left(_name(pair)):
                continue
            if outage is None:
                on_progress()
                outage = self._ask(pair)
            else:
                self._errors[pair] = outage
            if isinstance(self._errors.get(pair), BackendUnavailable):
                waiting.append(pair)
        return waiting

    def _ask(self, pair: Pair) -> BackendUnavailable | None:
        """Ask for one schema; return the error of a registry that does not answer."""
        event_type, topic = pair
        schema = self._format.schema(event_type)
        self._tried[pair] = None
        try:
            self._encoders[pair] = schema.register(
                self._registry,
                topic=topic,
                subject=self._subject(topic, schema.name),
                register=self._register,
            )
            self._errors.pop(pair, None)
        except (SchemaProblem, SchemaForbidden) as error:
            self._errors[pair] = error
        except BackendUnavailable as error:
            self._errors[pair] = self._outage = error
            self._unanswered = pair
            return error
        if self._unanswered == pair:
            self._unanswered = None
        self._pauses.succeeded(REGISTRY)
        if not isinstance(self._errors.get(pair), SchemaForbidden):
            self._pauses.succeeded(_name(pair))
        return None

    def _failure(self, message: Message, topic: str) -> TransientError:
        """Return the error of an event whose schema the registry has not given."""
        event_type = message.event_type
        pair = event_type, topic
        error = self._errors[pair]
        subject = self._subject(topic, self._format.schema(event_type).name)
        text = f"schema of {event_type!r}, subject {subject!r}: {error}"
        if isinstance(error, SchemaProblem):
            failure = TransientError(text)
            failure.reason = f"no schema for {event_type!r} in the registry"
        else:
            name = _name(pair)
            left = max(map(self._pauses.seconds_left, (name, REGISTRY)))
            if isinstance(error, SchemaForbidden):
                hint = "write, or set 'register' to False" if self._register else "read it"
                text += f"; allow it to {hint}"
            failure = TransientError(text, spends_retry=False, retry_after=left)
            failure.waits_for = name
            failure.sent = self._is_first(pair, message)
            verb = "refuses the schema" if isinstance(error, SchemaForbidden) else "is unavailable"
            failure.reason = f"the schema registry {verb}"
        failure.__cause__ = error
        return failure

    def _is_first(self, pair: Pair, message: Message) -> bool:
        """Return True for the first event of a pair that was asked for with this batch."""
        if pair not in self._tried:
            return False
        self._tried[pair] = self._tried[pair] or message
        return self._tried[pair] is message

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
        if pair not in self._encoders:
            raise self._failure(message, topic)
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


def _name(pair: Pair) -> str:
    """Return the name of a pair, as that for which events wait."""
    return " ".join(pair)
