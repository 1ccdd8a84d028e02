"""Checks of single values: the rules of `conf`, dotted paths, keys, and unknown settings."""

from __future__ import annotations

from collections.abc import Iterable
from reprlib import repr as shortened
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage
from django.utils.module_loading import import_string

from .. import former
from ..check_messages import TAG, Messages, error, kind, literal, nearest, warning
from ..conf import all_settings, conf
from ..encryption import key_problem
from ..events import load_encoder
from ..exceptions import MissingClient

PREFIX = "OUTBOX_"


def check_values(**_: Any) -> Messages:
    """Check each setting that has a rule by that rule."""
    return [problem for name in all_settings() if (problem := _problem(name))]


def _problem(name: str) -> CheckMessage | None:
    setting = all_settings()[name]
    value = getattr(conf, name.removeprefix(PREFIX))
    if setting.check is None or setting.check.accepts(value):
        return None
    message = f"{name} must be {setting.check.wanted}, not {shortened(value)}."
    hint = f"Set {name} = {literal(setting.default)}, which is the default."
    return error(setting.id, message, hint)


def check_encryption_keys(**_: Any) -> Messages:
    """Check that OUTBOX_ENCRYPTION_KEYS has Fernet keys, and that their library is installed."""
    keys: Any = conf.ENCRYPTION_KEYS
    fix = (
        "Set OUTBOX_ENCRYPTION_KEYS = [key] with the output of python -c 'from cryptography.fernet "
        "import Fernet; print(Fernet.generate_key().decode())'. Keep the key out of the repository."
    )
    if not isinstance(keys, list | tuple):
        return [error("E040", f"OUTBOX_ENCRYPTION_KEYS must be a list, not {kind(keys)}.", fix)]
    try:
        problems = [(place, key_problem(key)) for place, key in enumerate(keys)]
    except MissingClient as missing:
        return [error("E040", f"OUTBOX_ENCRYPTION_KEYS: {missing}", str(missing))]
    return [
        error("E040", f"OUTBOX_ENCRYPTION_KEYS[{place}] {problem}.", fix)
        for place, problem in problems
        if problem
    ]


def check_redactor(**_: Any) -> Messages:
    """Check that OUTBOX_REDACTOR names a function that can be imported."""
    path: Any = conf.REDACTOR
    if path is None:
        return []
    fix = "Set OUTBOX_REDACTOR = 'mysite.redaction.redact', a function of yours, or None."
    if not isinstance(path, str):
        return [error("E041", f"OUTBOX_REDACTOR must be a dotted path, not {kind(path)}.", fix)]
    try:
        is_function = callable(import_string(path))
    except Exception as reason:  # its module may raise any exception
        message = f"OUTBOX_REDACTOR: could not import {path!r}: {reason}."
        return [error("E041", message, fix)]
    message = f"OUTBOX_REDACTOR must be the dotted path of a function; {path!r} is not callable."
    return [] if is_function else [error("E041", message, fix)]


def check_json_encoder(**_: Any) -> Messages:
    """Check that OUTBOX_JSON_ENCODER names a JSON encoder that can be imported."""
    path: Any = conf.JSON_ENCODER
    if path is None:
        return []
    fix = (
        "Set OUTBOX_JSON_ENCODER = 'mysite.encoders.Encoder', a subclass of "
        "django.core.serializers.json.DjangoJSONEncoder of yours, or None."
    )
    if not isinstance(path, str):
        message = f"OUTBOX_JSON_ENCODER must be a dotted path, not {kind(path)}."
        return [error("E042", message, fix)]
    try:
        load_encoder(path)
    except Exception as reason:  # its module may raise any exception
        return [error("E042", f"{reason}.", fix)]
    return []


def check_poll_within_lease(**_: Any) -> Messages:
    """Check that a relay polls several times within its lease."""
    if _problem("OUTBOX_POLL_INTERVAL") or _problem("OUTBOX_LEASE_SECONDS"):
        return []
    poll, lease = conf.POLL_INTERVAL, conf.LEASE_SECONDS
    if poll < lease / 3:
        return []
    message = (
        f"OUTBOX_POLL_INTERVAL ({poll:g} s) must be below a third of OUTBOX_LEASE_SECONDS "
        f"({lease:g} s): an idle relay may lose its lease."
    )
    fix = f"Set OUTBOX_LEASE_SECONDS = {poll * 4:g}, or a smaller OUTBOX_POLL_INTERVAL."
    return [warning("W001", message, fix)]


def check_unknown_settings(**_: Any) -> Messages:
    """Check that no setting that starts with OUTBOX_ is unknown: it would have no effect."""
    known = {*all_settings(), former.WORKER}
    names = (name for name in dir(settings) if name.startswith(PREFIX) and name.isupper())
    return [_unknown_setting(name, known) for name in names if name not in known]


def _unknown_setting(name: str, known: Iterable[str]) -> CheckMessage:
    # Without their common prefix, which would make any two names similar.
    near = nearest(name.removeprefix(PREFIX), [each.removeprefix(PREFIX) for each in known])
    fix = f"Rename it to {PREFIX}{near}." if near else "Remove it."
    silence = f"If another package reads it, set SILENCED_SYSTEM_CHECKS = ['{TAG}.W002']."
    message = f"{name} is not a setting of django-broadcaster, so it has no effect."
    return warning("W002", message, f"{fix} {silence}")
