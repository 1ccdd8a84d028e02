"""Writes parts of the reference pages from the code.

In a page's Markdown, each of these comments stands for the text that is made:

    <!-- generated: settings -->
    <!-- generated: checks of values -->
    <!-- generated: options of outbox_worker -->
    <!-- generated: options of KafkaBackend -->
    <!-- generated: options of KafkaConsumer -->
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

from django.core.management import load_command_class
from django.core.management.base import BaseCommand
from django.utils.module_loading import import_string
from house_docstrings import ITEM, items_of
from sphinx.application import Sphinx

from django_broadcaster import former
from django_broadcaster.backends import MessageBackend
from django_broadcaster.check_messages import literal
from django_broadcaster.conf import Setting, all_settings, setting_groups
from django_broadcaster.consumers import Consumer

COMMENT = re.compile(r"<!-- generated: (?:(settings)|(checks of values)|options of (\w+)) -->")

NAME = re.compile(r"(?<![\w`])(--[a-z-]+|OUTBOX_[A-Z_]+)")
"""Names in help texts, which the pages show as code."""


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True}


def _fill(app: Sphinx, page: str, source: list[str]) -> None:
    source[0] = COMMENT.sub(lambda found: "\n".join(_text(*found.groups())), source[0])


def _text(settings: str | None, checks: str | None, owner: str | None) -> Iterator[str]:
    if settings:
        return _settings()
    if checks:
        return _checks()
    owner = owner or ""
    return _class_options(owner) if owner[:1].isupper() else _command_options(owner)


def _settings() -> Iterator[str]:
    """Yield a heading for each group, and for each setting a heading with all that is declared."""
    for group, settings in setting_groups().items():
        yield f"## {group.__doc__}\n"
        for name, setting in settings.items():
            yield f"### `{setting.name}`\n\n{setting.meaning}\n"
            yield f"- Type: `{_type(group, name)}`"
            yield f"- Default: `{literal(setting.default)}`"
            if setting.check:
                yield f"- Must be {setting.check.wanted}"
            if setting.check and setting.check.unit:
                yield f"- Unit: {setting.check.unit}"
            ids = ", ".join(f"`{each}`" for each in (setting.id, *setting.related))
            yield f"- [System checks](checks.md): {ids}"
            if before := ", ".join(_former(setting)):
                yield f"- In version 0.1: {before}"
            yield ""


def _type(group: type, name: str) -> str:
    """Return the annotation of a setting without its `Setting[...]`."""
    annotation: str = group.__annotations__[name]
    return annotation.removeprefix("Setting[").removesuffix("]")


def _former(setting: Setting[object]) -> Iterator[str]:
    for name, items in (
        (former.WORKER, former.WORKER_ITEMS),
        ("OUTBOX_RETENTION", former.RETENTION_ITEMS),
    ):
        for key, item in items.items():
            if item.setting == setting.name:
                yield f'`{name}["{key}"]`'


def _checks() -> Iterator[str]:
    """Yield a table of the checks by a rule, in the order of their ids."""
    yield "| id | cause | fix |\n|---|---|---|"
    for setting in sorted(all_settings().values(), key=lambda each: each.id):
        if setting.check:
            anchor = f"[`{setting.name}`](settings.md#{setting.name.lower()})"
            yield f"| `{setting.id}` | {anchor} is invalid. | Set {setting.check.wanted}. |"


def _command_options(name: str) -> Iterator[str]:
    """Yield a definition list of the options that a command has of its own."""
    common = {action.dest for action in BaseCommand().create_parser("manage.py", "x")._actions}
    parser = load_command_class("django_broadcaster", name).create_parser("manage.py", name)
    for action in parser._actions:
        if action.dest not in common:
            meaning = NAME.sub(r"`\g<0>`", action.help or "")
            yield f"`{_usage(action)}`\n: {meaning}\n"


def _usage(action: argparse.Action) -> str:
    if not action.option_strings:
        return str(action.metavar or action.dest)
    option = action.option_strings[-1]
    return option if action.nargs == 0 else f"{option} {action.metavar or action.dest.upper()}"


def _class_options(name: str) -> Iterator[str]:
    """Yield a table of the OPTIONS of a backend or a consumer, as its docstring explains them.

    Raises:
        ValueError: The docstring does not have an option.
    """
    of_consumer = name.endswith("Consumer")
    base: type[Any] = Consumer if of_consumer else MessageBackend
    module = "consumers" if of_consumer else "backends"
    owner = import_string(f"django_broadcaster.{module}.{name}")
    classes = owner.__mro__[: owner.__mro__.index(base)]
    if of_consumer:
        classes = (*classes, Consumer)
    defaults = dict(_defaults(classes))
    yield "| option | meaning |\n|---|---|"
    for names, meaning in _meanings(classes):
        values = [defaults.pop(each) for each in names if each in defaults]
        default = ", ".join(values if len(set(values)) > 1 else values[:1])
        shown = ", ".join(f"`{each}`" for each in names)
        if names != ["alias"]:
            yield f"| {shown} | {meaning} Default: {default or '`None`'}. |"
    if defaults:
        raise ValueError(f"the docstring of {name} does not explain {', '.join(defaults)}")
    if of_consumer:
        return
    limit = owner.default_max_message_bytes
    default = "None" if limit is None else f"{limit:_}"
    yield (
        "| `max_message_bytes` | The largest event, in bytes of its JSON, that a publish call "
        f"accepts. Default: `{default}`. |"
    )


def _defaults(classes: Sequence[type[Any]]) -> Iterator[tuple[str, str]]:
    """Yield the names of the options of classes and their defaults as code."""
    for each in classes:
        if "__init__" not in vars(each):
            continue
        # Not of the class: its metaclass has a signature of its own.
        for name, parameter in inspect.signature(each.__init__).parameters.items():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                value = parameter.default
                yield name, "none" if value is inspect.Parameter.empty else f"`{value!r}`"


def _meanings(classes: Sequence[type[Any]]) -> Iterator[tuple[list[str], str]]:
    """Yield names of options, and what they mean, as the docstrings say."""
    seen: set[str] = set()
    for each in classes:
        for item in items_of(inspect.cleandoc(each.__doc__ or "").splitlines()):
            found = ITEM.fullmatch(item)
            assert found, item
            names = [name for name in found["names"].split(", ") if name not in seen]
            seen.update(names)
            if names:
                yield names, found["meaning"].replace("|", "\\|")
