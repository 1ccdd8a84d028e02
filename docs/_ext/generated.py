"""Writes parts of the reference pages from the code.

In a page's Markdown, each of these comments stands for the text that is made:

    <!-- generated: settings -->
    <!-- generated: checks of values -->
    <!-- generated: options of outbox_worker -->
    <!-- generated: options of RedisStreamBackend -->
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from inspect import Parameter, cleandoc, signature

from django.core.management import load_command_class
from django.core.management.base import BaseCommand
from sphinx.application import Sphinx

from django_broadcaster import backends, former
from django_broadcaster.checks.shared import literal
from django_broadcaster.conf import Setting, all_settings, setting_groups

COMMENT = re.compile(r"<!-- generated: (?:(settings)|(checks of values)|options of (\w+)) -->")

NAME = re.compile(r"(?<![\w`])(--[a-z-]+|OUTBOX_[A-Z_]+)")
"""Names in help texts, which the pages show as code."""


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True}


def _fill(app: Sphinx, page: str, source: list[str]) -> None:
    source[0] = COMMENT.sub(lambda found: "\n".join(_text(*found.groups())), source[0])


def _text(settings: str | None, checks: str | None, command: str | None) -> Iterator[str]:
    if settings:
        return _settings()
    if checks:
        return _checks()
    named = command or ""
    return _backend_options(named) if named.endswith("Backend") else _options(named)


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


def _options(name: str) -> Iterator[str]:
    """Yield a definition list of the options that a command has of its own."""
    common = {action.dest for action in BaseCommand().create_parser("manage.py", "x")._actions}
    parser = load_command_class("django_broadcaster", name).create_parser("manage.py", name)
    for action in parser._actions:
        if action.dest not in common:
            meaning = NAME.sub(r"`\g<0>`", action.help or "")
            yield f"`{_usage(action)}`\n: {meaning}\n"


def _backend_options(name: str) -> Iterator[str]:
    """Yield a table of a backend's options, in the order of its docstring."""
    backend = getattr(backends, name)
    defaults = {
        option: parameter.default
        for base in reversed(backend.__mro__)
        if "__init__" in vars(base)
        for option, parameter in signature(vars(base)["__init__"]).parameters.items()
    }
    yield "| option | default | meaning |\n|---|---|---|"
    for names, meaning in documented_options(backend).items():
        shown = ", ".join(f"`{each}`" for each in names)
        values = [defaults[each] for each in names if defaults[each] is not Parameter.empty]
        default = ", ".join(dict.fromkeys(f"`{literal(value)}`" for value in values)) or "required"
        yield f"| {shown} | {default} | {meaning.replace('|', chr(92) + '|')} |"


def documented_options(backend: type) -> dict[tuple[str, ...], str]:
    """Return the options in the section `Args:` of a backend's docstring, with their meanings."""
    _, _, section = cleandoc(backend.__doc__ or "").partition("Args:\n")
    section = section.partition("\n\n")[0].replace("\n        ", " ")
    items = (line.strip().partition(": ") for line in section.splitlines())
    return {tuple(names.split(", ")): meaning for names, _, meaning in items}


def _usage(action: argparse.Action) -> str:
    if not action.option_strings:
        return str(action.metavar or action.dest)
    option = action.option_strings[-1]
    return option if action.nargs == 0 else f"{option} {action.metavar or action.dest.upper()}"
