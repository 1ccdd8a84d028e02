"""The backend: its options, what to call for an event, and what becomes of each failure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import inf
from typing import Any, ClassVar, Final, Literal
from uuid import UUID, uuid5

from django.utils.module_loading import import_string

from django_broadcaster.events.json_format import parse_json
from django_broadcaster.exceptions import Rejected

from ..base import Message, Shown, send_one_by_one
from ..bindings import trace_headers
from ..connected import ConnectedBackend
from ..errors import client_module
from ..expiry import AMQP_LONGEST, seconds_left
from ..names import escape_words
from ..outcomes import MessageBatch
from .connection import CLIENT, Call, Connection
from .errors import CallRefused
from .json_values import from_json

PRIORITIES: Final = (0, 255)
"""The range of AMQP; on Redis Celery knows 0 to 9."""

SHORT_BYTES: Final = 255
"""The longest name in AMQP, in bytes of UTF-8."""

# Celery's own tasks, such as celery.map, take the name of another one to call.
_RESERVED: Final = "celery."
_NAMESPACE: Final = UUID("7c1f4a2e-6f0b-5d38-9a55-0d2b7e8f3c41")


class CeleryBackend(ConnectedBackend[Connection]):
    """Calls a Celery task for each event.

    Args:
        app: The dotted path of the project's Celery app, `mysite.celery.app`. The broker's address,
            credentials and TLS are those of the app.
        task: The name of the task, a template of `{type}`, `{source}`, `{subject}` and `{key}`.
        arguments: With "event" the task gets the event, a dictionary, as its one argument. With
            "data" the data of the event, an object, are its keyword arguments.
        queue, priority: As in `apply_async`. None leaves them to the settings of the app and the
            task.
        timeout: Seconds without an answer after which the broker counts as unavailable.
        connect_timeout: Seconds to wait for a connection.

    A task `expires` with the `expirytime` of its event, unless that is over 49 days away.

    The `publisher_config` of an event may have `task` (plain text), `queue`, `priority`, and on
    AMQP `routing_key`. An `OutboxCelery` sets `call`, the destination and the id of a call whose
    other options are in the data.

    A call is sent when the one before has been acknowledged. So the calls of a key are in their
    queue in order, and no call is sent after one that failed. The order in which workers run them
    is not guaranteed. Neither the backend nor the client repeats a call (`retry=False`): the relay
    retries.
    """

    system: ClassVar[str] = "celery"
    client_library = CLIENT
    config_keys: ClassVar[frozenset[str]] = frozenset(
        {"call", "priority", "queue", "routing_key", "task"}
    )

    default_max_message_bytes: ClassVar[int | None] = 16 * 2**20
    """RabbitMQ's default for `max_message_size` from version 4.0 on; Redis takes more."""

    def __init__(
        self,
        *,
        app: str,
        task: str = "{type}",
        arguments: Literal["event", "data"] = "event",
        queue: str | None = None,
        priority: int | None = None,
        timeout: float = 10.0,
        connect_timeout: float = 5.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        path: object = app
        holds = isinstance(path, str) and "." in path.replace(":", ".")
        rule = "the dotted path of a Celery app, such as 'mysite.celery.app'"
        self.app_path = self.read.require("app", app, holds, rule)
        self._task = self.read.template("task", task, escape_words)
        self.arguments = self.read.choice("arguments", arguments, ("event", "data"))
        self.queue = self.read.text("queue", queue, SHORT_BYTES, plain=True, optional=True)
        self.priority = self.read.integer("priority", priority, *PRIORITIES, optional=True)
        self.timeout = self.read.seconds("timeout", timeout)
        self.connect_timeout = self.read.seconds("connect_timeout", connect_timeout)

    # --- The contract ------------------------------------------------------------------------

    def connect(self, within: float = inf) -> Connection:
        """Return an open connection; raises BackendUnavailable or BackendConfigurationError."""
        app = self._app()
        try:
            return Connection(app, min(self.timeout, within), min(self.connect_timeout, within))
        except ValueError as error:
            raise self.option_error("app", str(error)) from None

    def deliver(self, batch: MessageBatch, connection: Connection) -> None:
        """Send the call for each event, when the one before has been acknowledged."""
        batch.outcomes[:] = send_one_by_one(batch.messages, self._send)

    def health_check(self) -> bool:
        """Log in to the broker over a connection of its own; never raises."""
        is_blocked = self._connection is not None and self._connection.is_blocked
        return not is_blocked and super().health_check()

    def validate_config(self, config: Mapping[str, Any]) -> None:
        """Raise InvalidPublisherConfig for an unknown key or a wrong value."""
        super().validate_config(config)
        for key, value in config.items():
            if key == "call":
                self.read_config.require(key, value, isinstance(value, Mapping), "a dictionary")
            elif key == "priority":
                self.read_config.integer(key, value, *PRIORITIES)
            else:
                self.read_config.text(key, value, SHORT_BYTES, plain=True)

    def show(self, message: Message) -> Shown:
        """Return the task that is called, and its arguments as JSON."""
        call = self._call(message)
        destination = {
            name: getattr(call, name)
            for name in ("task", "task_id", "queue", "routing_key", "priority")
        }
        body = json.dumps([call.args, call.keywords], default=str, ensure_ascii=False)
        return Shown(destination, {}, body.encode())

    # --- From an event to a call -------------------------------------------------------------

    def _call(self, message: Message) -> Call:
        """Return what to call for an event; raises Rejected for one that can't be sent."""
        body = message.to_json()
        if self.max_message_bytes is not None and len(body) > self.max_message_bytes:
            raise Rejected(
                f"the event takes {len(body)} bytes, over the limit of {self.max_message_bytes} "
                "of the backend's max_message_bytes"
            )
        config = message.config
        if "call" in config:
            return self._given_call(message)
        task = config.get("task") or self._task.render(message)
        if task.startswith(_RESERVED):
            raise Rejected(f"{task!r} is a name of Celery's own tasks, which no event may call")
        args, keywords = self._arguments(message, body)
        return Call(
            task=task,
            task_id=task_id(message.source, message.event_id, self.alias),
            args=args,
            keywords=keywords,
            queue=config.get("queue", self.queue),
            routing_key=config.get("routing_key"),
            priority=config.get("priority", self.priority),
            headers=trace_headers(message),
            expires=seconds_left(message, AMQP_LONGEST),
        )

    def _given_call(self, message: Message) -> Call:
        """Return the call of an `OutboxCelery`, whose values are as Celery writes them in JSON."""
        try:
            data = from_json(parse_json(message.data_json or "{}"))
            call = from_json(message.config["call"])
            return Call(
                task=message.event_type,
                task_id=call["task_id"],
                args=list(data["args"]),
                keywords=dict(data["kwargs"]),
                **{name: call.get(name) for name in ("queue", "routing_key", "priority")},
                headers=trace_headers(message),
                options=dict(data["options"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise Rejected(
                f"the event is not a call of OutboxCelery: {type(error).__name__}: {error}"
            ) from error

    def _arguments(self, message: Message, body: bytes) -> tuple[list[Any], dict[str, Any]]:
        if self.arguments == "event":
            return [parse_json(body)], {}
        data = None if message.data_json is None else parse_json(message.data_json)
        if not isinstance(data, dict):
            raise Rejected("the event's data must be an object to become keyword arguments")
        return [], data

    # --- Sending -----------------------------------------------------------------------------

    def _send(self, message: Message) -> None:
        """Send the call for one event; raises its DeliveryError."""
        self.on_progress()
        call = self._call(message)
        connection = self.fresh_connection()
        if call.routing_key is not None and not connection.is_amqp:
            raise Rejected("'routing_key' is for AMQP; on this broker, name a 'queue'")
        try:
            connection.send(call)
        except CallRefused as error:
            shared = self._goes_with_all(message, connection)
            raise error.scope.error(f"{connection.place}: {error}", shared=shared) from error

    def _goes_with_all(self, message: Message, connection: Connection) -> bool:
        """Return True if an event's queue is that of all events."""
        if (message.config.keys() | message.config.get("call", {})) & {"queue", "routing_key"}:
            return False
        one_task = self._task.is_constant and not message.config.keys() & {"task", "call"}
        return self.queue is not None or one_task or not connection.has_routes

    def _app(self) -> Any:
        celery = client_module(CLIENT)
        path = self.app_path.replace(":", ".")
        try:
            found = import_string(path)
        except ImportError as error:
            raise self.option_error("app", f"{path!r} can't be imported: {error}") from error
        if not isinstance(found, celery.Celery):
            raise self.option_error("app", f"{path!r} is not a Celery app")
        return found


def task_id(source: str, event_id: str, backend: str) -> str:
    """Return the id of the task that an event becomes: the same each time that it is sent.

    `backend` is the alias: an event that goes to two Celery backends becomes two tasks.
    """
    return str(uuid5(_NAMESPACE, "\0".join((backend, source, event_id))))
