"""Checks of the settings that are single values, and of settings that do not exist."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from reprlib import repr as shortened
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage
from django.utils.module_loading import import_string

from .. import former
from ..conf import all_settings, conf
from ..encryption import key_problem
from ..events import load_encoder
from ..exceptions import MissingClient
from ..publishing import MAX_RETRIES
from .shared import (
    LONGEST,
    TAG,
    Messages,
    error,
    is_number,
    is_whole,
    kind,
    nearest,
    seconds,
    warning,
)


def check_require_transaction(**_: Any) -> Messages:
    """OUTBOX_REQUIRE_TRANSACTION is a bool: a string such as "False" would count as true."""
    good = isinstance(conf.REQUIRE_TRANSACTION, bool)
    return [] if good else [_wrong("E015", "REQUIRE_TRANSACTION", "True or False")]


def check_inbox_retention(**_: Any) -> Messages:
    """OUTBOX_INBOX_RETENTION is above 0: an inbox without memory lets an event in twice."""
    return _memory("E017", "INBOX_RETENTION")


def check_time_partitions(**_: Any) -> Messages:
    """OUTBOX_TIME_PARTITIONS is above 0."""
    value = conf.TIME_PARTITIONS
    good = value is None or 0 < seconds(value) <= LONGEST.total_seconds()
    wanted = "a timedelta or seconds, above 0 and up to 100 years, or None for a plain table"
    return [] if good else [_wrong("E042", "TIME_PARTITIONS", wanted)]


def check_history_retention(**_: Any) -> Messages:
    """OUTBOX_HISTORY_RETENTION is above 0."""
    return _memory("E026", "HISTORY_RETENTION")


def _memory(number: str, name: str) -> Messages:
    value = getattr(conf, name)
    good = value is None or 0 < seconds(value) <= LONGEST.total_seconds()
    wanted = "a timedelta or seconds, above 0 and up to 100 years, or None to remember for ever"
    return [] if good else [_wrong(number, name, wanted)]


def check_notify(**_: Any) -> Messages:
    """OUTBOX_NOTIFY is a bool."""
    good = isinstance(conf.NOTIFY, bool)
    return [] if good else [_wrong("E025", "NOTIFY", "True or False")]


def check_batch_size(**_: Any) -> Messages:
    """OUTBOX_BATCH_SIZE is a whole number that one statement can take."""
    good = is_whole(conf.BATCH_SIZE, 1, 10_000)
    return [] if good else [_wrong("E018", "BATCH_SIZE", "a whole number from 1 to 10000")]


def check_batch_bytes(**_: Any) -> Messages:
    """OUTBOX_BATCH_BYTES is a whole number from 1 on."""
    good = is_whole(conf.BATCH_BYTES, 1)
    return [] if good else [_wrong("E030", "BATCH_BYTES", "a whole number of bytes above 0")]


def check_poll_interval(**_: Any) -> Messages:
    """OUTBOX_POLL_INTERVAL is above 0."""
    good = is_number(conf.POLL_INTERVAL) and conf.POLL_INTERVAL > 0
    return [] if good else [_wrong("E019", "POLL_INTERVAL", "seconds, above 0")]


def check_partitions(**_: Any) -> Messages:
    """OUTBOX_PARTITIONS is a whole number that relays can share out."""
    good = is_whole(conf.PARTITIONS, 1, 1024)
    return [] if good else [_wrong("E020", "PARTITIONS", "a whole number from 1 to 1024")]


def check_lease_seconds(**_: Any) -> Messages:
    """OUTBOX_LEASE_SECONDS leaves time for several heartbeats."""
    good = is_number(conf.LEASE_SECONDS) and conf.LEASE_SECONDS >= 2
    return [] if good else [_wrong("E021", "LEASE_SECONDS", "seconds, 2 or more")]


def check_shutdown_timeout(**_: Any) -> Messages:
    """OUTBOX_SHUTDOWN_TIMEOUT is 0 or more."""
    good = is_number(conf.SHUTDOWN_TIMEOUT) and conf.SHUTDOWN_TIMEOUT >= 0
    return [] if good else [_wrong("E022", "SHUTDOWN_TIMEOUT", "seconds, 0 or more")]


def check_max_lag(**_: Any) -> Messages:
    """OUTBOX_MAX_LAG_SECONDS is above 0."""
    good = is_number(conf.MAX_LAG_SECONDS) and conf.MAX_LAG_SECONDS > 0
    return [] if good else [_wrong("E050", "MAX_LAG_SECONDS", "seconds, above 0")]


def check_max_retry_age(**_: Any) -> Messages:
    """OUTBOX_MAX_RETRY_AGE_SECONDS is above 0."""
    good = is_number(conf.MAX_RETRY_AGE_SECONDS) and conf.MAX_RETRY_AGE_SECONDS > 0
    return [] if good else [_wrong("E052", "MAX_RETRY_AGE_SECONDS", "seconds, above 0")]


def check_stall_seconds(**_: Any) -> Messages:
    """OUTBOX_STALL_SECONDS is longer than what a relay that works may take to say so."""
    good = is_number(conf.STALL_SECONDS) and conf.STALL_SECONDS >= 1
    return [] if good else [_wrong("E051", "STALL_SECONDS", "seconds, 1 or more")]


def check_max_crashes(**_: Any) -> Messages:
    """OUTBOX_MAX_CRASHES is a whole number from 2 on: the first crash tells only the batch."""
    good = is_whole(conf.MAX_CRASHES, 2)
    return [] if good else [_wrong("E023", "MAX_CRASHES", "a whole number, 2 or more")]


def check_max_retries(**_: Any) -> Messages:
    """OUTBOX_MAX_RETRIES is a whole number that its column holds."""
    good = is_whole(conf.MAX_RETRIES, 0, MAX_RETRIES)
    wanted = f"a whole number from 0 to {MAX_RETRIES}"
    return [] if good else [_wrong("E029", "MAX_RETRIES", wanted)]


def check_encryption_keys(**_: Any) -> Messages:
    """OUTBOX_ENCRYPTION_KEYS is a list of Fernet keys, and the library for them is there."""
    keys: Any = conf.ENCRYPTION_KEYS
    fix = (
        "Write OUTBOX_ENCRYPTION_KEYS = [key] with what python -c 'from cryptography.fernet import "
        "Fernet; print(Fernet.generate_key().decode())' prints, kept out of the repository."
    )
    if not isinstance(keys, list | tuple):
        return [error("E060", f"OUTBOX_ENCRYPTION_KEYS must be a list, not {kind(keys)}.", fix)]
    try:
        problems = [(place, key_problem(key)) for place, key in enumerate(keys)]
    except MissingClient as missing:
        return [error("E060", f"OUTBOX_ENCRYPTION_KEYS: {missing}", str(missing))]
    return [
        error("E060", f"OUTBOX_ENCRYPTION_KEYS[{place}] {problem}.", fix)
        for place, problem in problems
        if problem
    ]


def check_redactor(**_: Any) -> Messages:
    """OUTBOX_REDACTOR can be imported, and called."""
    path: Any = conf.REDACTOR
    if path is None:
        return []
    fix = "Write OUTBOX_REDACTOR = 'mysite.redaction.redact', a function of yours, or None."
    if not isinstance(path, str):
        return [error("E061", f"OUTBOX_REDACTOR must be a dotted path, not {kind(path)}.", fix)]
    try:
        good = callable(import_string(path))
    except Exception as reason:  # whatever its module raises
        return [error("E061", f"OUTBOX_REDACTOR: {path!r} can't be imported: {reason}.", fix)]
    return [] if good else [error("E061", f"OUTBOX_REDACTOR: {path!r} can't be called.", fix)]


def check_json_encoder(**_: Any) -> Messages:
    """OUTBOX_JSON_ENCODER can be imported, and is a JSON encoder."""
    path: Any = conf.JSON_ENCODER
    if path is None:
        return []
    fix = (
        "Write OUTBOX_JSON_ENCODER = 'mysite.encoders.Encoder', a subclass of "
        "django.core.serializers.json.DjangoJSONEncoder of yours, or None."
    )
    if not isinstance(path, str):
        message = f"OUTBOX_JSON_ENCODER must be a dotted path, not {kind(path)}."
        return [error("E062", message, fix)]
    try:
        load_encoder(path)
    except Exception as reason:  # whatever its module raises
        return [error("E062", f"{reason}.", fix)]
    return []


def check_poll_within_lease(**_: Any) -> Messages:
    """A relay looks at the outbox several times while its lease lasts."""
    if check_poll_interval() or check_lease_seconds():
        return []
    poll, lease = conf.POLL_INTERVAL, conf.LEASE_SECONDS
    if poll < lease / 3:
        return []
    message = (
        f"OUTBOX_POLL_INTERVAL ({poll:g} seconds) is a third of OUTBOX_LEASE_SECONDS ({lease:g} "
        "seconds) or more: a relay with nothing to do may lose its lease."
    )
    fix = f"Write OUTBOX_LEASE_SECONDS = {poll * 4:g}, or a smaller OUTBOX_POLL_INTERVAL."
    return [warning("W001", message, fix)]


PREFIX = "OUTBOX_"


def check_unknown_settings(**_: Any) -> Messages:
    """No setting that starts with OUTBOX_ is misspelt, because it would have no effect."""
    known = {*all_settings(), former.WORKER}
    names = (name for name in dir(settings) if name.startswith(PREFIX) and name.isupper())
    return [_unknown_setting(name, known) for name in names if name not in known]


def _unknown_setting(name: str, known: Iterable[str]) -> CheckMessage:
    # Without what all of them begin with: else any name would be near to some.
    near = nearest(name.removeprefix(PREFIX), [each.removeprefix(PREFIX) for each in known])
    fix = f"Rename it to {PREFIX}{near}." if near else "Remove it."
    silence = f"If it is another package's, write SILENCED_SYSTEM_CHECKS = ['{TAG}.W002']."
    message = f"{name} is not a setting of django-broadcaster, so it has no effect."
    return warning("W002", message, f"{fix} {silence}")


def _wrong(number: str, name: str, wanted: str) -> CheckMessage:
    """Return the error about a single value; the fix is its default."""
    setting = all_settings()[f"OUTBOX_{name}"]
    default = setting.default
    literal = f"timedelta(days={default.days})" if isinstance(default, timedelta) else repr(default)
    message = f"{setting.name} must be {wanted}, not {shortened(getattr(conf, name))}."
    return error(number, message, f"Write {setting.name} = {literal}, which is the default.")
