"""A view that takes CloudEvents by HTTP into the outbox, as consumers do from brokers.

    urlpatterns = [
        path(
            "events/",
            CloudEventView.as_view(consumer="partner", secrets=settings.PARTNER_SECRETS),
        ),
    ]

Protocol: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
Handshake: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/http-webhook.md
Signatures: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

==== ===============================================================================
code answers
==== ===============================================================================
204  stored, or stored before
400  an event is invalid; the text names the field, and nothing of a batch is stored
401  the signature is missing, wrong or too old
403  the origin of a handshake is not allowed
413  the body is too large
415  the content type is not of a CloudEvent
503  the database is unavailable; `Retry-After` says when to try again
==== ===============================================================================

A sender repeats a request after 5xx, and gives up after 4xx.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured, RequestDataTooBig
from django.db import Error, router, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse, UnreadablePostError
from django.http.response import HttpResponseBase
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.generic import View

from django_broadcaster.backends.webhook.signatures import InvalidSignature, Verifier
from django_broadcaster.events import CloudEvent, from_json_batch
from django_broadcaster.exceptions import InvalidEvent, Rejected
from django_broadcaster.models import OutboxEvent
from django_broadcaster.signals import messages_received

from .base import Delivery, ReceivedMessage
from .handler import local_backend
from .rows import Writer

logger = logging.getLogger("django_broadcaster.receiver")

BATCH: Final = "application/cloudevents-batch"
MOST_EVENTS: Final = 1000
"""The most events of a batch."""

RETRY_AFTER: Final = 30
"""Seconds after which a sender is to try again."""

view_consumers: Final[set[str]] = set()
"""The names of the views that were made, under which handlers know their events."""

Secrets = Sequence[str] | Callable[[HttpRequest], Sequence[str]]


@method_decorator([csrf_exempt, never_cache, transaction.non_atomic_requests], name="dispatch")
class CloudEventView(View):
    """Stores the events of a request, and answers 204 once they are committed.

    Requests may be in binary mode, in structured mode, or a batch. Repetitions are stored once.

    Args:
        consumer: The name under which handlers know these events.
        secrets: The secrets of Standard Webhooks: `whsec_...`, or `whpk_...` for the public key of
            ed25519; or a function that returns those for a request. Several are valid at a time, so
            that they can be changed.
        verify: False takes requests without a signature, where something else authenticates them.
        binary: Whether signed requests may be in binary mode. A signature covers the body alone,
            so a request that was seen can be sent again with other attributes.
        deliver_to: The alias of a backend that runs handlers; by default the only one.
        max_bytes: The largest body.
        tolerance: The most seconds between a signature and its arrival.
        allowed_origins: The origins that a handshake allows, or `["*"]` for all.
        allowed_rate: The requests per minute that a handshake allows; None for any number.
    """

    http_method_names: Sequence[str] = ("post", "options")

    consumer: str = ""
    secrets: Secrets = ()
    verify: bool = True
    binary: bool = False
    deliver_to: str | None = None
    max_bytes: int = 1_000_000
    tolerance: float = 300.0
    allowed_origins: Sequence[str] = ()
    allowed_rate: int | None = None

    @classmethod
    def as_view(cls, **arguments: Any) -> Callable[..., Any]:
        """Return the view; raises ImproperlyConfigured for a wrong argument."""
        view = super().as_view(**arguments)
        example = cls(**arguments)
        name = cls.__name__
        if not example.consumer:
            raise ImproperlyConfigured(f"{name}: consumer must be a name, such as 'partner'")
        if example.verify and not example.secrets:
            raise ImproperlyConfigured(
                f"{name}: secrets must be given; pass verify=False if something else "
                "authenticates the requests"
            )
        if isinstance(example.allowed_origins, str):
            raise ImproperlyConfigured(f"{name}: allowed_origins must be a list, not a string")
        if not callable(example.secrets):
            example._verifier(example.secrets)
        view_consumers.add(example.consumer)
        return view

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Store the events of a request."""
        began = time.monotonic()
        try:
            body = self._body(request)
            self._authenticate(request, body)
            deliveries = [_delivery(event) for event in self._events(request, body)]
            using = router.db_for_write(OutboxEvent)
            backend = local_backend(self.deliver_to, f"{type(self).__name__}: deliver_to")
            written = Writer(using, self.consumer, backend).write_valid(deliveries)
        except _Refused as refused:
            return _answer(refused.status, str(refused))
        except InvalidSignature as error:
            return _answer(401, str(error))
        except (InvalidEvent, Rejected) as error:
            return _answer(400, str(error))
        except Error as error:
            logger.warning(
                "Consumer %r: The database failed (%s); answered 503.",
                self.consumer,
                type(error).__name__,
                extra={"consumer": self.consumer},
            )
            answer = _answer(503, "the database is unavailable; try again later")
            answer["Retry-After"] = str(RETRY_AFTER)
            return answer
        messages_received.send_robust(
            sender=type(self),
            consumer=self.consumer,
            written=written,
            seconds=time.monotonic() - began,
        )
        return HttpResponse(status=204)

    def options(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Answer the handshake of a sender that asks for permission."""
        origin = request.headers.get("WebHook-Request-Origin", "")
        if not origin:
            return super().options(request, *args, **kwargs)
        if "*" not in self.allowed_origins and origin not in self.allowed_origins:
            return _answer(403, f"WebHook-Request-Origin: {origin!r} is not allowed")
        answer = HttpResponse(status=200)
        answer["Allow"] = "POST, OPTIONS"
        answer["WebHook-Allowed-Origin"] = origin
        answer["WebHook-Allowed-Rate"] = str(self.allowed_rate or "*")
        return answer

    def _body(self, request: HttpRequest) -> bytes:
        """Read the body, up to its limit; a longer one is not read to its end."""
        too_large = _Refused(413, f"the body is over the limit of {self.max_bytes} bytes")
        try:
            if int(request.headers.get("Content-Length") or 0) > self.max_bytes:
                raise too_large
            body = request.read(self.max_bytes + 1)
        except ValueError as error:
            raise _Refused(400, "Content-Length is not a number") from error
        except RequestDataTooBig as error:
            raise too_large from error
        except UnreadablePostError as error:
            raise _Refused(400, "the body ended early") from error
        if len(body) > self.max_bytes:
            raise too_large
        return bytes(body)

    def _authenticate(self, request: HttpRequest, body: bytes) -> None:
        if not self.verify:
            return
        secrets = self.secrets(request) if callable(self.secrets) else self.secrets
        self._verifier(secrets).check(request.headers, body, time.time())

    def _verifier(self, secrets: Sequence[str]) -> Verifier:
        try:
            return Verifier(secrets, self.tolerance)
        except ValueError as error:
            raise ImproperlyConfigured(f"{type(self).__name__}: secrets: {error}") from error

    def _events(self, request: HttpRequest, body: bytes) -> list[CloudEvent]:
        """Return the events of a request; raises InvalidEvent."""
        content_type = (request.headers.get("Content-Type") or "").strip().lower()
        if content_type.startswith(BATCH):
            events = from_json_batch(body)
            if len(events) > MOST_EVENTS:
                raise _Refused(413, f"the batch has over {MOST_EVENTS} events")
            return events
        if not content_type.startswith("application/cloudevents"):
            self._check_binary(request)
        return [CloudEvent.from_http(request.headers, body)]

    def _check_binary(self, request: HttpRequest) -> None:
        if "ce-specversion" not in request.headers:
            raise _Refused(
                415,
                "the request is not a CloudEvent: it has no header ce-specversion, and its content "
                "type is not application/cloudevents+json",
            )
        if self.verify and not self.binary:
            raise _Refused(
                415,
                "binary mode is not accepted here, because the signature does not cover the "
                "headers; send the event as application/cloudevents+json",
            )


class _Refused(Exception):
    """A request that is answered with this status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def _delivery(event: CloudEvent) -> Delivery:
    return Delivery(ReceivedMessage(body=b""), event=event)


def _answer(status: int, text: str) -> JsonResponse:
    return JsonResponse({"error": text}, status=status)
