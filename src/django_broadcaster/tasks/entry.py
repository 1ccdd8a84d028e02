"""An entry of TASKS: its queues and options, and the errors in it.

An entry with errors can be used to declare tasks. So the system checks report the errors: an
exception while the modules with tasks are imported would prevent them from running.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from reprlib import repr as shortened
from typing import Any, Final

from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.tasks import DEFAULT_TASK_QUEUE_NAME

from django_broadcaster.backends.options import OptionReader
from django_broadcaster.check_messages import error, kind, literal, unknown_keys
from django_broadcaster.setting_rules import MAX_RETRIES

KEYS: Final = frozenset({"BACKEND", "OPTIONS", "QUEUES"})


@dataclass(frozen=True, slots=True)
class Option:
    """An option of `OutboxTaskBackend`: its default, and what returns a value if it is valid."""

    default: Any
    read: Callable[[OptionReader, str, Any], Any]


def _flag(read: OptionReader, name: str, value: Any) -> Any:
    return read.flag(name, value)


RUNNER_OPTIONS: Final[Mapping[str, Option]] = {
    "atomic": Option(False, _flag),
    "batch_size": Option(10, lambda read, name, value: read.integer(name, value, 1)),
    "concurrency": Option(1, lambda read, name, value: read.integer(name, value, 1, 64)),
}
"""The options that are those of `TaskRunner`."""

OPTIONS: Final[Mapping[str, Option]] = {
    **RUNNER_OPTIONS,
    "max_retries": Option(
        None,
        lambda read, name, value: read.integer(name, value, 0, MAX_RETRIES, optional=True),
    ),
    "priorities": Option(True, _flag),
}


class Entry:
    """An entry of TASKS.

    Attributes:
        where: The place of the entry in the settings.
        queues: The names of the queues; empty if every name is allowed.
        options: Every option. One with an error has its default here.
        errors: The errors of the entry.
    """

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        self.where = f"TASKS[{alias!r}]"
        self.errors: list[CheckMessage] = [*unknown_keys("E057", self.where, params, KEYS)]
        self.queues: list[str] = self._queues(params.get("QUEUES", [DEFAULT_TASK_QUEUE_NAME]))
        self.options = {name: option.default for name, option in OPTIONS.items()}
        self.errors += self._read_options(params.get("OPTIONS", {}))

    def require_valid(self) -> None:
        """Raise ImproperlyConfigured with the first error, if there is one."""
        for each in self.errors:
            raise ImproperlyConfigured(f"{each.msg} {each.hint}")

    def _queues(self, value: Any) -> list[str]:
        if isinstance(value, list | tuple | set | frozenset) and all(
            isinstance(name, str) and name for name in value
        ):
            return [*value]
        message = f"{self.where}['QUEUES'] must be a list of names, not {shortened(value)}."
        example = [value] if value and isinstance(value, str) else [DEFAULT_TASK_QUEUE_NAME]
        fix = f"Set {self.where}['QUEUES'] = {example!r}, or [] to allow every name."
        self.errors.append(error("E058", message, fix))
        return []

    def _read_options(self, value: Any) -> Iterator[CheckMessage]:
        where = f"{self.where}['OPTIONS']"
        if not isinstance(value, Mapping):
            fix = f"Set {where} = {{}}, or remove it."
            yield error("E059", f"{where} must be a dict, not {kind(value)}.", fix)
            return
        yield from unknown_keys("E059", where, value, OPTIONS)
        read = OptionReader(lambda name, problem: ImproperlyConfigured(problem))
        for name in value.keys() & OPTIONS.keys():
            try:
                self.options[name] = OPTIONS[name].read(read, name, value[name])
            except ImproperlyConfigured as problem:
                fix = (
                    f"Set {where}[{name!r}] = {literal(OPTIONS[name].default)}, which is the "
                    "default."
                )
                yield error("E059", f"{where}[{name!r}] {problem}.", fix)
