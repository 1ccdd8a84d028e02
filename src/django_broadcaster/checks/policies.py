"""Checks of retry policies and the circuit breaker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from inspect import signature
from reprlib import repr as shortened
from typing import Any

from ..backends.handler import backends
from ..check_messages import Messages, entries, error, kind, unknown_keys
from ..conf import conf
from ..exceptions import BackendConfigurationError
from ..relay.circuit import Circuit
from ..retry import RetryPolicy
from ..setting_rules import is_number, is_whole
from ..states import RETRIES_OF_SETTINGS

RETRY_DEFAULTS = {f.name: f.default for f in fields(RetryPolicy) if f.name != "random"}
RETRY_DEFAULTS["max_retries"] = int(RETRIES_OF_SETTINGS)
CIRCUIT_DEFAULTS = {
    name: parameter.default
    for name, parameter in signature(Circuit).parameters.items()
    if name != "clock"
}


def check_retry(**_: Any) -> Messages:
    """Check that OUTBOX_RETRY is a retry policy by itself."""
    found: Any = conf.RETRY
    return _retry_problems("E009", "OUTBOX_RETRY", found, lambda: RetryPolicy(**found))


def check_backend_retries(**_: Any) -> Messages:
    """Check that RETRY of each backend, merged over OUTBOX_RETRY, is a retry policy."""
    if check_retry():
        return []  # each backend would report the same error
    problems: Messages = []
    for alias, entry in entries().items():
        where = f"OUTBOX_PUBLISHERS[{alias!r}]['RETRY']"
        build = partial(backends.retry_policy, alias)
        problems += _retry_problems("E007", where, entry.get("RETRY", {}), build)
    return problems


def _retry_problems(
    number: str, where: str, found: Any, build: Callable[[], RetryPolicy]
) -> Messages:
    fix = f"Set {where} = {RETRY_DEFAULTS!r}, or only the keys that differ."
    if problems := _keyed_numbers(number, where, found, RETRY_DEFAULTS, fix):
        return problems
    try:
        build()
    except (ValueError, BackendConfigurationError) as reason:
        text = str(reason)
        message = text if text.startswith("OUTBOX_") else f"{where}: {text}"
        return [error(number, f"{message}.", fix)]
    return []


def check_circuit(**_: Any) -> Messages:
    """Check the keys and values of OUTBOX_CIRCUIT."""
    found: Any = conf.CIRCUIT
    fix = f"Set OUTBOX_CIRCUIT = {CIRCUIT_DEFAULTS!r}, or only the keys that differ."
    if problems := _keyed_numbers("E010", "OUTBOX_CIRCUIT", found, CIRCUIT_DEFAULTS, fix):
        return problems
    wrong = _wrong_in_circuit(**{**CIRCUIT_DEFAULTS, **found})
    return [error("E010", f"OUTBOX_CIRCUIT: {problem}.", fix) for problem in wrong]


def _wrong_in_circuit(initial: float, maximum: float, probe_size: float) -> Iterator[str]:
    if initial <= 0:
        yield f"'initial' must be a positive number of seconds, not {initial:g}"
    elif maximum < initial:
        yield f"'maximum' must be at least 'initial' ({initial:g} s), not {maximum:g} s"
    if not is_whole(probe_size, 1):
        yield f"'probe_size' must be a whole number of events, 1 or more, not {probe_size:g}"


def _keyed_numbers(
    number: str, where: str, found: Any, defaults: Mapping[str, object], fix: str
) -> Messages:
    """Return an error for each key that is unknown or whose value is not a finite number."""
    if not isinstance(found, Mapping):
        return [error(number, f"{where} must be a dict, not {kind(found)}.", fix)]
    problems = list(unknown_keys(number, where, found, defaults))
    for key in [name for name in defaults if name in found]:
        if not is_number(found[key]):
            message = f"{where}[{key!r}] must be a number, not {shortened(found[key])}."
            problems.append(error(number, message, fix))
    return problems
