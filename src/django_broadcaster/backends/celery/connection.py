"""A connection to the broker of a Celery app, by kombu, on which each call is acknowledged.

The connection is the backend's own, not one of the app's pool. On AMQP the app's connections
confirm nothing unless its settings say so. All of them wait for ever, or retry by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from django_broadcaster.events import TRACEPARENT, TRACESTATE
from django_broadcaster.exceptions import BackendUnavailable

from .. import amqp
from ..connected import HeldConnection
from ..errors import Scope, describe, mapped, unavailable
from .errors import HARMLESS, CallRefused, judge

CLIENT: Final = ("celery", "celery")
"""The client library, and the extra that it comes with."""


@dataclass(frozen=True, slots=True)
class Call:
    """A task to be called. None leaves a choice to the app's settings and to the task's.

    `expires` is in seconds from now. `options` are further arguments of `send_task`.
    """

    task: str
    task_id: str
    args: list[Any]
    keywords: dict[str, Any]
    queue: str | None
    routing_key: str | None
    priority: int | None
    headers: dict[str, str]
    expires: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


class Connection(HeldConnection):
    """An open connection; raises BackendUnavailable, or ValueError for settings that are wrong."""

    def __init__(self, app: Any, timeout: float, connect_timeout: float) -> None:
        self._app = app
        self._trace: dict[str, str] = {}
        self._timeout = timeout
        self._returned = ""
        self._has_options = False
        self.is_blocked = self._is_spent = False
        self._connection = _connection(app, connect_timeout)
        self.place = f"Celery's broker at {self._connection.as_uri()}"
        self.is_amqp = self._connection.transport.driver_type == "amqp"
        self.has_routes = bool(app.conf.task_routes)
        if self.is_amqp and self._connection.transport.driver_name != "py-amqp":
            raise ValueError("the app's AMQP client can't wait for confirmations; use pyamqp://")
        self.is_open = True
        self._connection.transport_options.update(self._transport_options(connect_timeout))
        try:
            with mapped(lambda error: self.unavailable(describe(error))):
                self._connect()
        except BaseException:
            self.drop()
            raise

    def is_fresh(self) -> bool:
        """Return False if the server closed it, or may confirm a call that was given up.

        Such a confirmation would pass for that of another call.
        """
        if not self.is_amqp:
            return self.is_open  # redis-py checks its connection by itself, before it sends
        try:
            while amqp.has_news(self._connection.connection):
                self._connection.drain_events(timeout=self._timeout)
        except Exception:
            return False
        if self._is_spent and self.is_blocked:
            raise self.unavailable(amqp.BLOCKED)
        return self.is_open and not self._is_spent

    def send(self, call: Call) -> None:
        """Send a call and wait until the broker has it.

        An error that leaves the connection in doubt closes it.

        Raises:
            CallRefused: The broker refused the call.
            BackendUnavailable: The broker is unavailable, or refuses everyone.
        """
        self._returned = ""
        with mapped(self._meaning):
            self._send_task(call)
        if self._returned:
            # The queue went away since it was declared; the next connection declares it again.
            self.drop()
            raise CallRefused(Scope.DESTINATION, f"no queue takes it: {self._returned}")

    def close(self) -> None:
        """Disconnect in an orderly way."""
        if self.is_amqp and self.is_open:
            with suppress(Exception):
                amqp.set_timeout(
                    self._connection.connection, min(self._timeout, amqp.GOODBYE_SECONDS)
                )
        self.is_open = False
        with suppress(Exception):
            self._connection.release()

    def drop(self) -> None:
        """Disconnect at once."""
        self.is_open = False
        with suppress(Exception):
            if self.is_amqp:
                self._connection.collect()
            else:
                self._connection.release()

    def abandon(self) -> None:
        """Close the sockets of a connection that is the parent process's."""
        if self.is_amqp:
            amqp.close_socket(self._connection.connection)
            return
        channel = self._producer.channel
        for pool in (getattr(channel, "_pool", None), getattr(channel, "_async_pool", None)):
            for each in getattr(pool, "_available_connections", ()):
                with suppress(Exception):
                    each.disconnect()  # redis-py tells the server nothing in another process

    def unavailable(self, problem: str) -> BackendUnavailable:
        """Return the error for a broker that is away, or refuses everyone."""
        return unavailable(f"{self.place}: {problem}")

    # --- Connecting --------------------------------------------------------------------------

    def _transport_options(self, connect_timeout: float) -> dict[str, Any]:
        if self.is_amqp:
            return {
                "confirm_publish": True,
                "on_blocked": lambda _: self._set_blocked(True),
                "on_unblocked": lambda: self._set_blocked(False),
                "socket_settings": amqp.socket_settings(self._timeout),
            }
        if self._connection.transport.driver_type == "redis":
            return {
                "socket_timeout": self._timeout,
                "socket_connect_timeout": connect_timeout,
                "retry_on_timeout": False,
            }
        return {}

    def _connect(self) -> None:
        """Try each of the app's broker addresses once, without a pause."""
        addresses = max(len(self._connection.alt or ()), 1)
        self._connection.ensure_connection(
            max_retries=addresses - 1, interval_start=0, interval_step=0
        )
        if self.is_amqp:
            amqp.set_timeout(self._connection.connection, self._timeout)
        channel = self._connection.channel()
        on_return = self._came_back if self.is_amqp else None
        self._producer = self._app.amqp.Producer(channel, auto_declare=False, on_return=on_return)
        self._publish = self._producer.publish
        self._producer.publish = self._publish_as_given

    # --- Sending -----------------------------------------------------------------------------

    def _send_task(self, call: Call) -> None:
        choices = {
            "queue": call.queue,
            "routing_key": call.routing_key,
            "priority": call.priority,
            "expires": call.expires,
            "mandatory": True if self.is_amqp else None,
        }
        options = dict(call.options)
        self._has_options = bool(options)
        self._trace = call.headers
        # An `OutboxCelery` would write the call to the outbox once more.
        send = getattr(self._app, "send_task_now", self._app.send_task)
        send(
            call.task,
            call.args,
            call.keywords,
            task_id=call.task_id,
            producer=self._producer,
            retry=False,
            add_to_parent=False,
            # Results are not read here, so the result backend does not wait for them. For the
            # worker, it is as the task says.
            ignore_result=True,
            headers={
                "ignore_result": options.pop("ignore_result", None),
                **(options.pop("headers", None) or {}),
                **call.headers,
            },
            **{name: value for name, value in choices.items() if value is not None},
            **options,
        )

    def _publish_as_given(self, body: Any, *, headers: dict[str, Any], **options: Any) -> Any:
        """Publish a message with the trace of its event.

        Receivers of Celery's `before_task_publish`, as OpenTelemetry's, write one of their own.
        """
        if TRACEPARENT in self._trace:
            headers.pop(TRACESTATE, None)
            headers.update(self._trace)
        return self._publish(body, headers=headers, **options)

    def _meaning(self, error: Exception) -> Exception:
        """Return what an error of Celery or kombu means; drops a connection that is in doubt."""
        import kombu.exceptions

        cause = error.__cause__ if isinstance(error, kombu.exceptions.OperationalError) else None
        cause = cause or error
        if self.is_blocked and isinstance(cause, TimeoutError):
            # The connection is kept: the server would get the same call over another one again, and
            # take all of them when it has room.
            self._is_spent = True
            return self.unavailable(amqp.BLOCKED)
        is_channel_error = self.is_amqp and isinstance(cause, self._connection.channel_errors)
        found, text = judge(cause, is_channel_error=is_channel_error, has_options=self._has_options)
        if type(cause).__name__ not in HARMLESS:
            self.drop()
        return self.unavailable(text) if found is Scope.BROKER else CallRefused(found, text)

    def _came_back(self, error: Any, _exchange: str, routing_key: str, _message: Any) -> None:
        self._returned = f"{error.reply_text}, routing key {routing_key!r}"

    def _set_blocked(self, value: bool) -> None:
        self.is_blocked = value


def _connection(app: Any, connect_timeout: float) -> Any:
    """Return a connection that is not open yet; raises ValueError."""
    try:
        connection = app.connection_for_write(connect_timeout=connect_timeout)
        connection.transport  # noqa: B018  # it is made at access, and imports its client
    except ImportError as error:
        raise ValueError(f"the app's broker needs a client library: {error}") from error
    except Exception as error:
        # Its text may have a piece of the URL in it, and so of a password.
        raise ValueError(
            f"{type(error).__name__}: the app's broker_url is malformed, or of a kind that kombu "
            "does not know"
        ) from None
    return connection
