"""The page of an event: its history, its attributes and payload, and the message to be sent."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from django.template.loader import render_to_string
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from django_broadcaster.amounts import duration
from django_broadcaster.backends import Shown
from django_broadcaster.backends.base import Message
from django_broadcaster.backends.handler import backends
from django_broadcaster.conf import conf
from django_broadcaster.event_history import history_of
from django_broadcaster.events import CloudEvent, encode_data
from django_broadcaster.models import OutboxEvent
from django_broadcaster.presentation import presented
from django_broadcaster.redaction import masked, place_of
from django_broadcaster.relay.decryption import decrypted
from django_broadcaster.relay.row_to_message import message_of
from django_broadcaster.store import RelayRows

from .display import dump, moment, shortened, text_block

LONGEST_BODY = 20_000
"""Maximum of a message's characters on a page."""


def life(event: OutboxEvent) -> SafeString:
    """Return the history of an event, the oldest step first, with the time between steps."""
    rows = [
        {
            "step": step,
            "at": moment(step.at),
            "gap": "" if gap is None else f"+{duration(gap)}",
            "link": _url("outboxevent", step.waits_for) or _url("outboxoperation", step.operation),
        }
        for step, gap in history_of(event)
    ]
    template = "admin/django_broadcaster/outboxevent/life.html"
    return SafeString(render_to_string(template, {"rows": rows}))


def _url(model: str, row: int | None) -> str:
    """Return the address of a row's page; empty if the admin site has none."""
    if row is None:
        return ""
    try:
        return reverse(f"admin:django_broadcaster_{model}_change", args=[row])
    except NoReverseMatch:
        return ""


def payload(event: OutboxEvent) -> SafeString:
    """Return the event as JSON; binary data is shown by its size and first bytes."""
    shown = presented(event)
    if isinstance(shown, str):
        return text_block(shown)
    members = shown.to_dict()
    members.pop("data_base64", None)
    text = text_block(json.dumps(members, indent=2, ensure_ascii=False, default=str))
    return text + text_block(dump(shown.data)) if isinstance(shown.data, bytes) else text


def config(event: OutboxEvent) -> SafeString:
    """Return the event's options for its backend. URLs are cut after the host, to hide keys."""
    shown: Any = event.publisher_config
    if isinstance(shown, dict):  # rows written without the publishers API may have another type
        shown = {name: _place(value) for name, value in shown.items()}
    return text_block(masked(json.dumps(shown, ensure_ascii=False)))


def _place(value: object) -> object:
    return place_of(value) if isinstance(value, str) else value


def message(event: OutboxEvent) -> SafeString:
    """Return the message that the backend sends for the event with the current settings."""
    try:
        shown = _shown(event)
    except Exception as error:  # a custom backend may raise anything; the page shows the error
        problem = _("The event can't be sent: %(error)s") % {
            "error": f"{type(error).__name__}: {error}"
        }
        return text_block(masked(problem))
    if isinstance(shown, str):
        return text_block(shown)
    if shown is None:
        return format_html("<p>{}</p>", _("The event has been deleted."))
    places = {name: value for name, value in shown.destination.items() if value not in (None, "")}
    template = "admin/django_broadcaster/outboxevent/message.html"
    parts = {"places": places, "headers": dict(shown.headers), "body": _body(shown.body)}
    return SafeString(render_to_string(template, parts))


def _shown(event: OutboxEvent) -> Shown | str | None:
    """Return the message after redaction, the reason why there is none, or None without a row."""
    backend = backends.create(event.publisher_backend)
    row = RelayRows(event._state.db or "default", event.publisher_backend, 0).read(event.pk)
    if row is None:
        return None
    ([*readable], errors) = decrypted([row])
    if errors:
        return str(errors[row.id])
    sent = message_of(readable[0])
    if conf.REDACTOR is None:
        return backend.show(sent)
    event_shown = presented(event)
    return event_shown if isinstance(event_shown, str) else backend.show(_with(sent, event_shown))


def _with(sent: Message, shown: CloudEvent) -> Message:
    """Return a message with the subject, extensions and data of the redacted event."""
    binary = shown.data if isinstance(shown.data, bytes) else None
    has_json = shown.has_data and binary is None
    return replace(
        sent,
        subject=shown.subject,
        extensions=shown.extensions,
        data_json=encode_data(shown.data) if has_json else None,
        data_binary=binary,
    )


def _body(body: bytes | None) -> str:
    if body is None:
        return _("(no body)")
    try:
        return shortened(body.decode(), LONGEST_BODY)
    except UnicodeDecodeError:
        return dump(body)
