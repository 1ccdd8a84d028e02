"""The backend: its options, and a batch from messages to outcomes."""

from __future__ import annotations

import logging
import math
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from ssl import SSLContext
from typing import Any, ClassVar, Final

from django.db import DatabaseError, InterfaceError
from django.utils.module_loading import import_string

from django_broadcaster.backends.base import NOT_SHOWN, Message, Shown, as_delivery_error
from django_broadcaster.backends.bindings import HTTP, Binding, BindingBackend
from django_broadcaster.backends.connected import HEALTH_SECONDS, ConnectedBackend
from django_broadcaster.backends.credentials import TLS
from django_broadcaster.backends.errors import unavailable
from django_broadcaster.backends.options import OptionReader
from django_broadcaster.backends.outcomes import MessageBatch
from django_broadcaster.backends.pauses import Pauses
from django_broadcaster.backends.uninstrumented import uninstrumented
from django_broadcaster.exceptions import (
    BackendUnavailable,
    DeliveryError,
    Rejected,
    TransientError,
)
from django_broadcaster.redaction import endpoint_name

from .book import EndpointBook, NoBook
from .connection import IDLE_CONNECTIONS, Connection, load
from .errors import CLIENT, Answer, Kind, error_of
from .handshakes import REQUEST_ORIGIN, Handshakes
from .options import (
    SecretsFor,
    WebhookOptions,
    read_headers,
    read_networks,
    read_origin,
    read_secrets,
)
from .sender import ABOUT_THE_ENDPOINT, ABOUT_THE_ONLY_ENDPOINT, Endpoint, Sender
from .signatures import Signer
from .urls import place_of, read_url, target_of

logger = logging.getLogger("django_broadcaster")

FIVE_DAYS: Final = 5 * 86_400.0
SHARE_OF_ONE: Final = 4
"""One endpoint of many gets a part of `max_in_flight`, so that a slow one leaves room: this one."""

PROBES: Final = 4
"""How many events at once try one of many endpoints that did not answer before."""

_FROM_A_FUNCTION: Final = OptionReader(lambda key, problem: ValueError(problem))


class WebhookBackend(ConnectedBackend[Connection], BindingBackend):
    """Sends each event as a POST to an endpoint.

    Args:
        url: The endpoint of events that name no other.
        event_urls: Whether the `publisher_config` of an event may have its own `url`.
        allow_http: Whether such a URL may begin with http:// instead of https://.
        username, password: The credentials for Basic authentication; not with `event_urls`.
        tls: The details for https:// URLs: a dictionary of `ca_file`, `cert_file`, `key_file`,
            `verify` and `check_hostname`, or an `ssl.SSLContext`.
        secrets: The secrets that sign requests, `whsec_...` or `whsk_...`; several during a
            rotation.
        secrets_for: A function, or its dotted path, that returns the secrets for a URL.
        content_mode: "structured", or "binary" with the attributes as headers.
        headers: Further headers of every request.
        request_origin: The DNS name that every request has as `WebHook-Request-Origin`.
        handshake: Whether to ask an endpoint with OPTIONS, before its first event and once an hour,
            if it agrees to receive events from `request_origin`.
        timeout: Seconds for a request as a whole. A batch takes at most about twice as long.
        connect_timeout: Seconds to connect to one address.
        max_in_flight: The number of requests at once.
        max_response_bytes: The bytes of a response that are read before its connection is closed.
        keep_response: Whether the first 500 bytes of the response to a failed request are stored
            with the error.
        disable_after: Seconds of nothing but failures after which an endpoint is disabled. By
            default five days with `event_urls`, and never (`math.inf`) without.
        allow_private: Whether endpoints may have addresses that are not public.
        allowed_networks: Networks that endpoints may be in nevertheless, such as `10.1.0.0/16`.

    An event of a key is sent when the one before was delivered. Keys, and events without one, are
    sent concurrently. So no event of a key is sent before one that failed.
    """

    system: ClassVar[str] = "webhook"
    client_library = CLIENT
    uses_event_loop = True
    binding: Binding = HTTP

    def __init__(
        self,
        *,
        url: str | None = None,
        event_urls: bool = False,
        allow_http: bool = False,
        secrets: Sequence[str] = (),
        secrets_for: Callable[[str], Iterable[str]] | str | None = None,
        headers: Mapping[str, str] | None = None,
        username: str | None = None,
        password: str | None = None,
        tls: bool | Mapping[str, Any] | SSLContext = False,
        request_origin: str | None = None,
        handshake: bool = False,
        timeout: float = 10.0,
        connect_timeout: float = 5.0,
        max_in_flight: int = 64,
        max_response_bytes: int = 16_384,
        keep_response: bool = True,
        disable_after: float | None = None,
        allow_private: bool = False,
        allowed_networks: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        read = self.read
        self._check(url=url, event_urls=event_urls, allow_http=allow_http)
        login = read.login(username, password)
        if login and event_urls:
            read.refuse("username", "can't be combined with 'event_urls'")
        read.apart("secrets", secrets, "secrets_for", secrets_for)
        read.flag("handshake", handshake)
        read.flag("keep_response", keep_response)
        read.together("handshake", handshake, "request_origin", request_origin)
        if disable_after != math.inf:
            read.seconds("disable_after", disable_after, optional=True)
        default = FIVE_DAYS if event_urls else math.inf
        self.options = WebhookOptions(
            url=url,
            event_urls=event_urls,
            allow_http=allow_http,
            headers=read_headers(read, headers, login),
            signer=read_secrets(read, secrets),
            secrets_for=read.function("secrets_for", secrets_for, optional=True),
            request_origin=read_origin(read, request_origin),
            handshake=handshake,
            timeout=read.seconds("timeout", timeout),
            connect_timeout=read.seconds("connect_timeout", connect_timeout),
            max_in_flight=read.integer("max_in_flight", max_in_flight, 1),
            max_response_bytes=read.integer("max_response_bytes", max_response_bytes, 1),
            keep_response=keep_response,
            disable_after=default if disable_after is None else disable_after,
            rules=read_networks(read, allow_private, allowed_networks),
            tls=read.tls(tls, context=True) or TLS(),
        )
        self.book: EndpointBook = NoBook()
        """Records endpoints that fail; the relay sets it."""
        self._pauses = Pauses()
        self._handshakes = Handshakes()

    def connect(self, within: float = math.inf) -> Connection:
        """Load the client; raises MissingClient, or BackendUnavailable for a file that is missing.

        Nothing is connected: an endpoint that is unavailable is noticed with the first event.
        """
        self.options.signer.load()
        try:
            return Connection(
                self.options.rules,
                timeout=self.options.timeout,
                connect_timeout=self.options.connect_timeout,
                max_response_bytes=self.options.max_response_bytes,
                keep_response=self.options.keep_response,
                tls=self.options.tls,
            )
        except OSError as error:
            raise unavailable(f"TLS of backend {self.alias!r}: {error}", error) from error

    def health_check(self) -> bool:
        """Return True if the endpoint of the settings accepts connections, or there is none."""
        if self.options.url is None:
            return True
        try:
            load()
            return self._connects(*target_of(self.options.url))
        except Exception:
            return False

    def validate_config(self, config: Mapping[str, Any]) -> None:
        """Judge an event's own `url`; raises InvalidPublisherConfig."""
        rest = dict(config)
        given = rest.pop("url", None) if self.options.event_urls else None
        super().validate_config(rest)
        if given is None and "url" not in config and self.options.url is not None:
            return
        if self.options.event_urls:
            read_url(self.read_config, given, allow_http=self.options.allow_http)

    def deliver(self, batch: MessageBatch, connection: Connection) -> None:
        """Send a batch, many endpoints at once and each key in order."""
        urls = [self._url_of(message) for message in batch.messages]
        endpoints = self._endpoints(set(urls))
        sender = self._sender(batch.messages, [endpoints[url] for url in urls], connection)
        with uninstrumented():
            connection.run(sender.run())
        self._remember(endpoints.values())
        self._note_outcomes(batch, sender)

    def returned(self) -> Collection[str]:
        """Return the endpoints that answer again since the last call."""
        return self._pauses.returned()

    def show(self, message: Message) -> Shown:
        """Return the request without its secrets.

        Those are the path of the URL, the signature, and the values of headers set in OPTIONS."""
        shown = super().show(message)
        hidden = dict.fromkeys((*self.options.headers, "webhook-signature"), NOT_SHOWN)
        if self.options.request_origin is not None:
            hidden[REQUEST_ORIGIN] = self.options.request_origin
        url = self._url_of(message)
        endpoint = {"endpoint": f"{place_of(url)} (endpoint {endpoint_name(self.alias, url)})"}
        return Shown(endpoint, {**hidden, **shown.headers}, shown.body)

    # --- Before a batch ----------------------------------------------------------------------

    def _url_of(self, message: Message) -> str:
        """Return where an event goes; empty if unknown, as after a change of the settings."""
        own = message.config.get("url") if self.options.event_urls else None
        return str(own or self.options.url or "")

    def _endpoints(self, urls: set[str]) -> dict[str, Endpoint]:
        """Return the endpoints of a batch, with those stopped already that are to get nothing."""
        try:
            self.book.look(urls)
        except (DatabaseError, InterfaceError) as error:
            raise BackendUnavailable("the disabled endpoints can't be read") from error
        return {url: self._endpoint(url) for url in urls}

    def _endpoint(self, url: str) -> Endpoint:
        slots = self.options.max_in_flight
        if self.options.event_urls:
            # One that did not answer is tried with a few events, which the others wait for; not
            # with one, which would never get past an event that it never answers.
            slots = min(PROBES, slots) if url in self._pauses else max(1, slots // SHARE_OF_ONE)
        stopped = self._reason_to_stop(url)
        signer, secrets_for = self.options.signer, self.options.secrets_for
        if stopped is None and secrets_for is not None:
            try:
                signer = self._signer_for(url, secrets_for)
            except Exception as error:  # what a project's function raises may hold its secrets
                text = f"'secrets_for' failed with {type(error).__name__}"
                stopped = Answer(Kind.FAILED, error=TransientError(text))
        return Endpoint(url, slots, signer, stopped=stopped)

    def _reason_to_stop(self, url: str) -> Answer | None:
        try:
            allow_http = self.options.allow_http or url == self.options.url
            read_url(self.read_message_config, url, allow_http=allow_http)
        except Rejected as error:
            return Answer(Kind.FORBIDDEN, str(error))
        row = self.book.disabled(url)
        if row is not None:
            why, _, _details = row.last_error.partition("\n")
            text = f"is disabled since {row.disabled_at:%Y-%m-%d %H:%M %Z}: {why}"
            return Answer(Kind.GONE, text)
        seconds = self._pauses.seconds_left(url)
        if seconds:
            return Answer(Kind.AWAY, "did not answer; waiting before the next attempt", seconds)
        return None

    def _signer_for(self, url: str, secrets_for: SecretsFor | str) -> Signer:
        function: SecretsFor = (
            import_string(secrets_for) if isinstance(secrets_for, str) else secrets_for
        )
        secrets: Any = function(url)
        if isinstance(secrets, Iterable) and not isinstance(secrets, str):
            secrets = list(secrets)  # such as those of a queryset
        signer = read_secrets(_FROM_A_FUNCTION, secrets)
        signer.load()
        return signer

    # --- The batch ---------------------------------------------------------------------------

    def _sender(
        self, messages: Sequence[Message], endpoints: Sequence[Endpoint], connection: Connection
    ) -> Sender:
        keep = len({endpoint.url for endpoint in endpoints}) <= IDLE_CONNECTIONS
        secret = set(self.options.headers.values())
        self._handshakes.begin()

        async def attempt(index: int) -> Answer:
            message, endpoint = messages[index], endpoints[index]
            try:
                handshake = self.options.handshake
                if handshake and (answer := await self._refusal(endpoint.url, connection)):
                    return answer
                headers, body = self._request(message, endpoint.signer)
                return await connection.post(endpoint.url, headers, body, keep=keep, secret=secret)
            except Exception as error:
                return Answer(Kind.REFUSED, error=as_delivery_error(error))

        stopping = ABOUT_THE_ENDPOINT if self.options.event_urls else ABOUT_THE_ONLY_ENDPOINT
        limits = self.options.max_in_flight, self.options.timeout
        return Sender(messages, endpoints, attempt, stopping, *limits)

    async def _refusal(self, url: str, connection: Connection) -> Answer | None:
        """Return the answer of an endpoint that does not agree to receive events."""
        origin = self.options.request_origin or ""
        ask = partial(connection.ask, headers=self.options.headers, origin=origin)
        return await self._handshakes.obstacle(url, ask)

    def _request(self, message: Message, signer: Signer) -> tuple[dict[str, str], bytes]:
        """Return the headers and the body of a request; raises Rejected for one too large."""
        wire = self.encode(message)
        body = wire.body or b""
        if self.max_message_bytes and len(body) > self.max_message_bytes:
            raise Rejected(
                f"the event takes {len(body)} bytes, over the limit of {self.max_message_bytes}"
            )
        headers = signer.headers(message.event_id, int(time.time()), body)
        headers.update(self.options.headers)
        if self.options.request_origin is not None:
            headers[REQUEST_ORIGIN] = self.options.request_origin
        headers.update(wire.headers)
        if wire.content_type:
            headers["Content-Type"] = wire.content_type
        return headers, body

    # --- After a batch -----------------------------------------------------------------------

    def _remember(self, endpoints: Iterable[Endpoint]) -> None:
        """Begin and end pauses, and record failures of endpoints."""
        attempted = [endpoint for endpoint in endpoints if endpoint.attempted]
        for endpoint in attempted:
            failure = endpoint.failure
            if endpoint.delivered or (failure and failure.kind is not Kind.AWAY):
                self._pauses.succeeded(endpoint.url)
            if self.options.event_urls and failure and failure.kind is Kind.AWAY:
                self._pauses.failed(endpoint.url, failure.retry_after)
        try:
            self._write_down(attempted)
        except (DatabaseError, InterfaceError) as error:
            # What was delivered is delivered. The next batch finds out the same.
            logger.warning(
                "Could not record failed endpoints of backend %r: %s; retrying at the next batch",
                self.alias,
                type(error).__name__,
                extra={"backend": self.alias},
            )

    def _write_down(self, endpoints: Sequence[Endpoint]) -> None:
        self.book.succeeded(each.url for each in endpoints if each.delivered)
        for endpoint in endpoints:
            failure = endpoint.failure
            if failure and failure.kind is Kind.GONE:
                self.book.disable(endpoint.url, failure.text, failure.details)
            elif failure and not endpoint.delivered:
                after = self.options.disable_after
                self.book.failed(endpoint.url, failure.text, after, failure.details)

    def _note_outcomes(self, batch: MessageBatch, sender: Sender) -> None:
        """Note the outcome of each message, by what its endpoint came to as a whole."""
        answers = zip(sender.answers, sender.endpoints, strict=True)
        for index, (answer, endpoint) in enumerate(answers):
            if answer is None:
                batch.hold(index)
            elif answer.kind is Kind.DELIVERED:
                batch.acknowledge(index)
            else:
                batch.fail(index, self._error(endpoint.conclude(answer), endpoint.url))

    def _error(self, answer: Answer, url: str) -> DeliveryError:
        if answer.kind is Kind.AWAY:
            left = self._pauses.seconds_left(url)
            answer = replace(answer, retry_after=max(left, answer.retry_after))
        place = f"{place_of(url)} (endpoint {endpoint_name(self.alias, url)})"
        error = error_of(answer, place, many=self.options.event_urls)
        if answer.kind is Kind.AWAY and not answer.sent and isinstance(error, TransientError):
            error.waits_for = url
        return error

    # --- Helpers -----------------------------------------------------------------------------

    def _connects(self, host: str, port: int) -> bool:
        """Return True if one address of a host can be connected to in `HEALTH_SECONDS`."""
        deadline = time.monotonic() + HEALTH_SECONDS
        for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with suppress(OSError), self.options.rules.socket_for(info) as connection:
                connection.settimeout(max(0.05, deadline - time.monotonic()))
                connection.connect(info[4])
                return True
        return False

    def _check(self, *, url: str | None, event_urls: bool, allow_http: bool) -> None:
        self.read.flag("event_urls", event_urls)
        self.read.flag("allow_http", allow_http)
        self.read.together("allow_http", allow_http, "event_urls", event_urls)
        if url is not None:
            read_url(self.read, url, allow_http=True)
        elif not event_urls:
            self.read.refuse("url", "must be given, unless 'event_urls' is True")
