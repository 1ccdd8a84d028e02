"""Periodic events: functions that a relay runs at the times of a crontab, once for all relays.

    @periodic("0 3 * * *")
    def close_day(event): ...

This module can be imported before `django.setup()`, as `registry` can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, Final, TypeVar
from zoneinfo import ZoneInfo

from django.conf import settings

from .exceptions import MissingClient
from .registry import HandlerFunction, event_registry

CLIENT: Final = ("cronsim", "periodic")
"""The library that reads crontabs, and the extra that it comes with."""

LONGEST_NAME: Final = 200
"""The characters of a name, which with the time is the id of an event."""

F = TypeVar("F", bound=HandlerFunction)


@dataclass(frozen=True, slots=True)
class Schedule:
    """The times of a periodic event: `cron` in a time zone, by default that of the settings.

    `name` is the type of its events. `backend` is the alias that they go to; None for the one that
    runs handlers.
    """

    name: str
    cron: str
    timezone: str | None = None
    backend: str | None = None

    def after(self, moment: datetime) -> datetime | None:
        """Return the first time after a moment, in UTC; None if there is none in 50 years."""
        zone = ZoneInfo(self.timezone or settings.TIME_ZONE)
        local: Iterator[datetime] = _parser().CronSim(self.cron, moment.astimezone(zone))
        # In an hour that the clock repeats, the first times may be those of the first pass.
        times = (each.astimezone(UTC) for each in local)
        return next((each for each in times if each > moment), None)


class Schedules:
    """The schedules of periodic events, by name."""

    def __init__(self) -> None:
        self._by_name: dict[str, Schedule] = {}

    def add(self, schedule: Schedule) -> None:
        """Add a schedule.

        Raises:
            ValueError: The crontab or the time zone is not valid, or the name is taken.
            MissingClient: The library `cronsim` is not installed.
        """
        self.check(schedule)
        self._by_name[schedule.name] = schedule

    def check(self, schedule: Schedule) -> None:
        """Raise as `add` does."""
        name = schedule.name
        if len(name) > LONGEST_NAME:
            raise ValueError(f"name: must have {LONGEST_NAME} characters at most, not {len(name)}")
        if self._by_name.get(name, schedule) != schedule:
            raise ValueError(f"name: must be unique, but another periodic event is {name!r}")
        _check_cron(schedule.cron)
        try:
            ZoneInfo(schedule.timezone or "UTC")
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(
                f"timezone: must be a name such as 'Europe/Berlin', not {schedule.timezone!r}"
            ) from error

    def remove(self, name: str) -> None:
        """Remove a schedule; raises KeyError."""
        del self._by_name[name]

    def __iter__(self) -> Iterator[Schedule]:
        return iter(tuple(self._by_name.values()))

    def __len__(self) -> int:
        return len(self._by_name)


schedules = Schedules()
"""The schedules of this process."""


def periodic(
    cron: str,
    *,
    name: str | None = None,
    timezone: str | None = None,
    backend: str | None = None,
    **options: Any,
) -> Callable[[F], F]:
    """Return a decorator that lets relays run a function periodically, and returns it unchanged.

    The function is a handler of an event, which is in the outbox before its time and is delivered
    at that time. So it runs once for all relays, with retries and dead letters. If no relay runs at
    that time, it runs as soon as one does. Times that have passed meanwhile run once.

    Args:
        cron: Five fields as in a crontab: minute, hour, day of the month, month, day of the week.
        name: The type of the events, by default the dotted path of the function.
        timezone: The time zone of the crontab, by default TIME_ZONE.
        backend: The alias of the backend that runs handlers, if there are several.
        options: Those of `event_registry.register`, such as `atomic`, `retry` and `timeout`.

    Raises:
        ValueError: An argument is not valid.
        MissingClient: The library `cronsim` is not installed.
    """

    def decorate(function: F) -> F:
        event_type = name or f"{function.__module__}.{function.__qualname__}"
        schedule = Schedule(event_type, cron, timezone, backend)
        schedules.check(schedule)
        registered = event_registry.register(event_type, name=event_type, **options)(function)
        # Without a handler its events would be discarded.
        schedules.add(schedule)
        return registered

    return decorate


def _check_cron(cron: object) -> None:
    rule = f"cron: must be five fields as in a crontab, not {cron!r}"
    if not isinstance(cron, str) or len(cron.split()) != 5:  # cronsim knows one for seconds
        raise ValueError(rule)
    try:
        _parser().CronSim(cron, datetime.now(UTC))
    except _parser().CronSimError as error:
        raise ValueError(f"{rule}: {error}") from error


def _parser() -> Any:
    try:
        return import_module(CLIENT[0])
    except ImportError as error:
        raise MissingClient(*CLIENT) from error
