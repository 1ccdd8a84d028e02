"""A connection to the broker of a Celery app, by kombu, on which each call is acknowledged.

It is the backend's own, not one of the app's pool: on AMQP the app's connections confirm nothing
unless its settings say so, and all of them wait for ever, or try again by themselves.
"""

from __future__ import annotations

import selectors
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from django_broadcaster.events import TRACEPARENT, TRACESTATE
from django_broadcaster.exceptions import MissingClient

CLIENT: Final = ("celery", "celery")
"""The client library, and the extra that it comes with."""

GOODBYE_SECONDS: Final = 1.0
"""The longest that closing waits for the server."""

BLOCKED: Final = "the server takes no messages: an alarm about its memory or disk space"


@dataclass(frozen=True, slots=True)
class Call:
    """A task to be called. None leaves a choice to the app's settings and to the task's.

    `expires` is in seconds from now.
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


class LinkLost(Exception):
    """The broker is away, or refuses everyone. What was on its way may have arrived."""


class CallRefused(Exception):
    """The broker did not take this call, and is there; `is_final`: it never will."""

    def __init__(self, problem: str, *, is_final: bool = False) -> None:
        super().__init__(problem)
        self.is_final = is_final


class CallUnencodable(Exception):
    """The app's serializer can't write the arguments."""


class Link:
    """An open connection; raises LinkLost, or ValueError for settings that can't be understood."""

    def __init__(self, app: Any, timeout: float, connect_timeout: float) -> None:
        self._app = app
        self._trace: dict[str, str] = {}
        self._timeout = timeout
        self._returned = ""
        self.is_blocked = self._is_spent = False
        self._connection = _connection(app, connect_timeout)
        self.place = f"Celery's broker at {self._connection.as_uri()}"
        self.is_amqp = self._connection.transport.driver_type == "amqp"
        self.has_routes = bool(app.conf.task_routes)
        if self.is_amqp and self._connection.transport.driver_name != "py-amqp":
            raise ValueError("its AMQP client can't wait for confirmations; write pyamqp://")
        self.is_open = True
        self._connection.transport_options.update(self._transport_options(connect_timeout))
        try:
            self._connect()
        except BaseException as error:
            self.drop()
            if isinstance(error, Exception):
                raise LinkLost(f"{self.place}: {_describe(error)}") from error
            raise

    def is_fresh(self) -> bool:
        """Tell whether it is of use; takes in what the server has said, which may be goodbye."""
        if not self.is_amqp:
            return self.is_open  # redis-py looks by itself, before it sends
        try:
            while self._has_news():
                self._connection.drain_events(timeout=self._timeout)
        except Exception:
            self.drop()
        # The confirmation of a call that was given up may come yet, and pass for another one's.
        return self.is_open and (self.is_blocked or not self._is_spent)

    def send(self, call: Call) -> None:
        """Send a call and wait until the broker has it.

        Raises CallUnencodable, CallRefused or LinkLost. The connection is closed by what leaves it
        in doubt.
        """
        if self._is_spent:
            raise LinkLost(BLOCKED)
        self._returned = ""
        try:
            self._send_task(call)
        except Exception as error:
            raise self._judged(error) from error
        if self._returned:
            # The queue went away since it was declared; the next connection declares it again.
            self.drop()
            raise CallRefused(f"no queue takes it: {self._returned}")

    def close(self) -> None:
        """Say goodbye, and disconnect."""
        if self.is_amqp and self.is_open:
            with suppress(Exception):
                self._set_timeout(min(self._timeout, GOODBYE_SECONDS))
        self.is_open = False
        with suppress(Exception):
            self._connection.release()

    def drop(self) -> None:
        """Disconnect without a word."""
        self.is_open = False
        with suppress(Exception):
            if self.is_amqp:
                self._connection.collect()
            else:
                self._connection.release()

    # --- Connecting --------------------------------------------------------------------------

    def _transport_options(self, connect_timeout: float) -> dict[str, Any]:
        if self.is_amqp:
            # The client's default would cut a connection on which a busy server reads nothing for
            # a second.
            patience = {}
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                patience[socket.TCP_USER_TIMEOUT] = int(self._timeout * 1000)
            return {
                "confirm_publish": True,
                "on_blocked": lambda _: self._set_blocked(True),
                "on_unblocked": lambda: self._set_blocked(False),
                "socket_settings": patience,
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
            self._set_timeout(self._timeout)
        channel = self._connection.channel()
        on_return = self._came_back if self.is_amqp else None
        self._producer = self._app.amqp.Producer(channel, auto_declare=False, on_return=on_return)
        self._publish = self._producer.publish
        self._producer.publish = self._publish_as_given

    def _set_timeout(self, seconds: float) -> None:
        self._connection.connection.transport.sock.settimeout(seconds)

    # --- Sending -----------------------------------------------------------------------------

    def _send_task(self, call: Call) -> None:
        choices = {
            "queue": call.queue,
            "routing_key": call.routing_key,
            "priority": call.priority,
            "expires": call.expires,
            "mandatory": True if self.is_amqp else None,
        }
        self._trace = call.headers
        self._app.send_task(
            call.task,
            call.args,
            call.keywords,
            task_id=call.task_id,
            producer=self._producer,
            retry=False,
            add_to_parent=False,
            # Nobody waits here for results, so the result backend is not told to. For the worker,
            # it is as the task says.
            ignore_result=True,
            headers={"ignore_result": None, **call.headers},
            **{name: value for name, value in choices.items() if value is not None},
        )

    def _publish_as_given(self, body: Any, *, headers: dict[str, Any], **options: Any) -> Any:
        """Publish a message with the trace of its event.

        Receivers of Celery's `before_task_publish`, as OpenTelemetry's, write one of their own.
        """
        if TRACEPARENT in self._trace:
            headers.pop(TRACESTATE, None)
            headers.update(self._trace)
        return self._publish(body, headers=headers, **options)

    def _judged(self, error: Exception) -> Exception:
        """Return what an error of Celery or kombu means; closes the connection if in doubt."""
        kombu = _kombu()
        if isinstance(error, kombu.exceptions.EncodeError):
            return CallUnencodable(str(error))
        cause = error.__cause__ if isinstance(error, kombu.exceptions.OperationalError) else error
        text = _describe(cause or error)
        if type(cause).__name__ == "MessageNacked":
            return CallRefused("a queue is full, or failed, and did not take it")
        if type(cause).__name__ == "QueueNotFound":
            return CallRefused(text)
        if self.is_blocked and isinstance(cause, TimeoutError):
            # The connection stays: another one would put the same call before the server once
            # more, and it would take all of them when it has room.
            self._is_spent = True
            return LinkLost(BLOCKED)
        self.drop()
        if self.is_amqp and isinstance(cause, self._connection.channel_errors):
            return CallRefused(text, is_final="size" in text and "larger" in text)
        if "WRONGTYPE" in text or type(cause).__name__ == "NoPermissionError":
            return CallRefused(text)
        return LinkLost(text)

    def _came_back(self, error: Any, _exchange: str, routing_key: str, _message: Any) -> None:
        self._returned = f"{error.reply_text}, routing key {routing_key!r}"

    def _set_blocked(self, value: bool) -> None:
        self.is_blocked = value

    def _has_news(self) -> bool:
        sock = self._connection.connection.transport.sock
        if hasattr(sock, "pending") and sock.pending():
            return True
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_READ)
            return bool(selector.select(0))


def _connection(app: Any, connect_timeout: float) -> Any:
    """Return a connection that is not open yet; raises ValueError."""
    try:
        connection = app.connection_for_write(connect_timeout=connect_timeout)
        connection.transport  # noqa: B018  # it is made at access, and imports its client
    except ImportError as error:
        raise ValueError(f"its broker needs a client library: {error}") from error
    except Exception as error:
        # Its text may have a piece of the URL in it, and so of a password.
        raise ValueError(
            f"{type(error).__name__}: the app's broker_url is malformed, or of a kind that kombu "
            "does not know"
        ) from None
    return connection


def _describe(error: BaseException) -> str:
    """Return what happened, in the server's words where it has said something."""
    text = getattr(error, "reply_text", None) or str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def library() -> Any:
    """Return Celery; raises MissingClient."""
    try:
        import celery  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingClient(*CLIENT) from error
    return celery


def _kombu() -> Any:
    import kombu.exceptions

    return kombu
