"""Checks of OUTBOX_PUBLISHERS. No message shows a value of OPTIONS that may be a password."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.util import find_spec
from inspect import Parameter, isabstract, signature
from reprlib import repr as shortened
from typing import Any

from django.core.checks import CheckMessage
from django.utils.module_loading import import_string

from .. import backends as backends_package
from ..backends.base import MessageBackend, PublisherBackend
from ..backends.handler import ENTRY_KEYS, ON_EXHAUSTED, backends
from ..backends.redis import RedisStreamBackend
from ..conf import conf
from ..exceptions import BackendConfigurationError
from ..redaction import SECRET_NAME, spellings, without
from .shared import TAG, Messages, entries, error, fix_of_key, kind, nearest, unknown_keys, warning

MAX_ALIAS = 64  # what the column `publisher_backend` holds
_PUBLISHERS_HINT = (
    "Set OUTBOX_PUBLISHERS = {'default': {'BACKEND': 'django_broadcaster.backends.LocalBackend'}}."
)


def check_publishers(**_: Any) -> Messages:
    """Check that there is at least one backend, and the shape of aliases and entries."""
    publishers: Any = conf.PUBLISHERS
    if not isinstance(publishers, Mapping) or not publishers:
        found = "an empty one" if isinstance(publishers, Mapping) else kind(publishers)
        message = f"OUTBOX_PUBLISHERS must be a dict with at least one backend, not {found}."
        return [error("E001", message, _PUBLISHERS_HINT)]
    return [
        problem
        for alias, entry in publishers.items()
        for problem in (*_alias_problems(alias), *_entry_problems(alias, entry))
    ]


def _alias_problems(alias: object) -> Iterator[CheckMessage]:
    if not isinstance(alias, str) or not 1 <= len(alias) <= MAX_ALIAS:
        message = (
            f"An alias in OUTBOX_PUBLISHERS must be a string of 1 to {MAX_ALIAS} characters, "
            f"not {shortened(alias)}."
        )
        yield error("E002", message, "Rename it in OUTBOX_PUBLISHERS, such as to 'default'.")


def _entry_problems(alias: object, entry: object) -> Iterator[CheckMessage]:
    where = f"OUTBOX_PUBLISHERS[{shortened(alias)}]"
    if not isinstance(entry, Mapping):
        yield error("E003", f"{where} must be a dict, not {kind(entry)}.", _PUBLISHERS_HINT)
        return
    yield from unknown_keys("E004", where, entry, ENTRY_KEYS)
    if entry.get("ON_EXHAUSTED", "skip") not in ON_EXHAUSTED:
        yield error(
            "E008",
            f"{where}['ON_EXHAUSTED'] must be 'skip' or 'block', "
            f"not {shortened(entry['ON_EXHAUSTED'])}.",
            f"Set {where}['ON_EXHAUSTED'] = 'skip' to continue a key without an event that has no "
            "retries left, or 'block' to hold the later events of that key.",
        )


def check_backends(**_: Any) -> Messages:
    """Check that each backend can be created; open no connection."""
    problems = (_backend_problem(alias, entry) for alias, entry in entries().items())
    return [problem for problem in problems if problem is not None]


def _backend_problem(alias: str, entry: Mapping[str, Any]) -> CheckMessage | None:
    where = f"OUTBOX_PUBLISHERS[{alias!r}]"
    path, options = entry.get("BACKEND", ""), entry.get("OPTIONS", {})
    if not isinstance(path, str):
        message = f"{where}['BACKEND'] must be a dotted path, not {kind(path)}."
        return error("E005", message, _backend_hint(where, ""))
    if not isinstance(options, Mapping):
        message = f"{where}['OPTIONS'] must be a dict, not {kind(options)}."
        return error("E006", message, f"Set {where}['OPTIONS'] = {{}}.")
    try:
        backends.create(alias)
    except Exception as reason:  # a custom class may raise any exception
        return _creation_problem(where, path, options, reason)
    return None


def check_client_libraries(**_: Any) -> Messages:
    """Check that the client library of each backend is installed, without importing it."""
    problems = (_client_problem(alias, entry) for alias, entry in entries().items())
    return [problem for problem in problems if problem is not None]


def _client_problem(alias: str, entry: Mapping[str, Any]) -> CheckMessage | None:
    path = entry.get("BACKEND")
    backend_class = _backend_class(path) if isinstance(path, str) else None
    library = getattr(backend_class, "client_library", None)
    if library is None:
        return None
    module, extra = library
    if _is_installed(module):
        return None
    message = f"OUTBOX_PUBLISHERS[{alias!r}]: the client library {module!r} is not installed."
    fix = (
        f"Install it: pip install 'django-broadcaster[{extra}]'. A process that only publishes "
        f"does not need it; there, set SILENCED_SYSTEM_CHECKS = ['{TAG}.W003']."
    )
    return warning("W003", message, fix)


def check_trimming(**_: Any) -> Messages:
    """Warn about backends that trim their stream: Redis also drops entries not yet read."""
    return [
        _trimmed(alias, backend.max_len)
        for alias in entries()
        if isinstance(backend := _made(alias), RedisStreamBackend) and backend.max_len is not None
    ]


def _made(alias: str) -> object:
    """Return a backend without opening it, or None if `check_backends` reports an error."""
    try:
        return backends.create(alias)
    except Exception:  # a custom class may raise any exception
        return None


def _trimmed(alias: str, max_len: int) -> CheckMessage:
    where = f"OUTBOX_PUBLISHERS[{alias!r}]"
    message = (
        f"{where} trims its stream to about {max_len} entries, read or not. A consumer whose lag "
        "is larger loses events."
    )
    fix = (
        f"Set {where}['OPTIONS']['max_len'] = None to trim nothing. If no consumer lags that far, "
        f"set SILENCED_SYSTEM_CHECKS = ['{TAG}.W004']."
    )
    return warning("W004", message, fix)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:  # a module without a spec, such as a stub of a test
        return True


def _creation_problem(
    where: str, path: str, options: Mapping[Any, Any], reason: Exception
) -> CheckMessage:
    """Return the error for an exception of `backends.create`."""
    backend_class = _backend_class(path)
    if backend_class is None:
        message = _message(f"{where}['BACKEND']", reason, list(options.values()))
        return error("E005", message, _backend_hint(where, path))
    if isabstract(backend_class):
        missing = ", ".join(sorted(backend_class.__abstractmethods__))
        message = f"{where}['BACKEND']: {path!r} does not define {missing}."
        return error("E005", message, f"Define {missing} in {backend_class.__name__}.")
    confidential = _confidential(options, _accepted_options(backend_class))
    message = _message(f"{where}['OPTIONS']", reason, confidential)
    return error("E006", message, _options_hint(where, backend_class, options))


def _confidential(options: Mapping[Any, Any], known: Collection[str]) -> list[Any]:
    """Return the values that no message may show: all but plain values of known options.

    A misspelt option, a URL, or a structure may hold a password under any name.
    """
    return [
        value
        for name, value in options.items()
        if name not in known or _HOLDS_MORE.search(name) or not _is_plain(value)
    ]


_HOLDS_MORE = re.compile(f"{SECRET_NAME.pattern} | url | servers?", re.IGNORECASE | re.VERBOSE)
_WORD = re.compile(r"[\w.{}-]{0,40}")


def _is_plain(value: object) -> bool:
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None
    return value is None or isinstance(value, int | float)


def _message(where: str, reason: Exception, confidential: Sequence[Any]) -> str:
    """Return the error's text, beginning with the setting, without the confidential values."""
    text = str(reason)
    if not isinstance(reason, BackendConfigurationError):
        text = f"{where}: {kind(reason)}: {text}"
    # Masking skips the setting's name, which an option's value may be part of.
    setting = where if text.startswith(where) else ""
    return (
        f"{setting}{without(text.removeprefix(setting), spellings(confidential))}".rstrip(".") + "."
    )


def _backend_class(path: str) -> type[PublisherBackend] | None:
    try:
        found = import_string(path)
    except Exception:  # its module may raise any exception
        return None
    return found if isinstance(found, type) and issubclass(found, PublisherBackend) else None


def _backend_hint(where: str, path: str) -> str:
    names = set(backends_package.__all__) - {
        "Message",
        "MessageBackend",
        "Outcome",
        "PublisherBackend",
    }
    near = nearest(path.rpartition(".")[2], names) or "LocalBackend"
    return (
        f"Set {where}['BACKEND'] = 'django_broadcaster.backends.{near}', or the dotted path of "
        "another subclass of django_broadcaster.backends.PublisherBackend."
    )


def _options_hint(
    where: str, backend_class: type[PublisherBackend], options: Mapping[Any, Any]
) -> str:
    if not issubclass(backend_class, MessageBackend):
        return f"Correct {where}['OPTIONS'], the configuration of {backend_class.__name__}."
    known = _accepted_options(backend_class)
    fixes = [fix_of_key(key, known) for key in options if key not in known]
    fix = "; ".join(fixes) or "correct the option named in the message"
    listed = ", ".join(sorted(map(repr, known)))
    return f"In {where}['OPTIONS'], {fix}. {backend_class.__name__} accepts {listed}."


def _accepted_options(backend_class: type[PublisherBackend]) -> set[str]:
    """Return the arguments of the constructor and of the constructors that it passes more to."""
    accepted: set[str] = set()
    for base in backend_class.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = signature(vars(base)["__init__"]).parameters.values()
        named = (Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
        accepted.update(item.name for item in parameters if item.kind in named)
        passes_on = any(item.kind == Parameter.VAR_KEYWORD for item in parameters)
        if base is MessageBackend or not passes_on:
            break
    return accepted - {"self", "alias"}
