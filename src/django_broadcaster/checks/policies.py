"""Checks of what to do after a failure: OUTBOX_RETRY, RETRY of each backend, OUTBOX_CIRCUIT."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from inspect import signature
from reprlib import repr as shortened
from typing import Any

from ..backends.handler import backends
from ..conf import conf
from ..exceptions import BackendConfigurationError
from ..relay.circuit import Circuit
from ..retry import RetryPolicy
from .shared import Messages, entries, error, is_number, is_whole, kind, unknown_keys

RETRY_DEFAULTS = {f.name: f.default for f in fields(RetryPolicy) if f.name != "random"}
CIRCUIT_DEFAULTS = {
    name: parameter.default
    for name, parameter in signature(Circuit).parameters.items()
    if name != "clock"
}


def check_retry(**_: Any) -> Messages:
    """OUTBOX_RETRY is a retry policy by itself, for the backends that have none of their own."""
    found: Any = conf.RETRY
    return _retry_problems("E009", "OUTBOX_RETRY", found, lambda: RetryPolicy(**found))


def check_backend_retries(**_: Any) -> Messages:
    """RETRY of each backend, over OUTBOX_RETRY, is a retry policy."""
    if check_retry():
        return []  # each backend would repeat what is wrong with the common part
    problems: Messages = []
    for alias, entry in entries().items():
        where = f"OUTBOX_PUBLISHERS[{alias!r}]['RETRY']"
        build = partial(backends.retry_policy, alias)
        problems += _retry_problems("E007", where, entry.get("RETRY", {}), build)
    return problems


def _retry_problems(
    number: str, where: str, found: Any, build: Callable[[], RetryPolicy]
) -> Messages:
    fix = f"Write {where} = {RETRY_DEFAULTS!r}, or the part of it that you want otherwise."
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
    """OUTBOX_CIRCUIT has known keys, seconds above 0 and a whole number of events."""
    found: Any = conf.CIRCUIT
    fix = f"Write OUTBOX_CIRCUIT = {CIRCUIT_DEFAULTS!r}, or the part that you want otherwise."
    if problems := _keyed_numbers("E010", "OUTBOX_CIRCUIT", found, CIRCUIT_DEFAULTS, fix):
        return problems
    wrong = _wrong_in_circuit(**{**CIRCUIT_DEFAULTS, **found})
    return [error("E010", f"OUTBOX_CIRCUIT: {problem}.", fix) for problem in wrong]


def _wrong_in_circuit(initial: float, maximum: float, probe_size: float) -> Iterator[str]:
    if initial <= 0:
        yield "'initial', the first pause in seconds, must be above 0"
    elif maximum < initial:
        yield f"'maximum' ({maximum:g} seconds) must not be below 'initial' ({initial:g})"
    if not is_whole(probe_size, 1):
        yield "'probe_size' must be a whole number of events, 1 or more"


def _keyed_numbers(
    number: str, where: str, found: Any, defaults: Mapping[str, object], fix: str
) -> Messages:
    """Return what keeps `found` from being a dict of known keys with finite numbers."""
    if not isinstance(found, Mapping):
        return [error(number, f"{where} must be a dict, not {kind(found)}.", fix)]
    problems = list(unknown_keys(number, where, found, defaults))
    for key in [name for name in defaults if name in found]:
        if not is_number(found[key]):
            message = f"{where}[{key!r}] must be a number, not {shortened(found[key])}."
            problems.append(error(number, message, fix))
    return problems
