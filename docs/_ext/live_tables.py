"""Directives that draw reference tables from the code, so that they can't go stale.

`outbox-settings`
    every setting with its default and its meaning;
`command-options NAME`
    the options that a management command has of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.core.management import load_command_class
from django.core.management.base import BaseCommand
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from django_broadcaster.conf import all_settings


def setup(app: Sphinx) -> dict[str, bool]:
    """Let Sphinx know."""
    app.add_directive("outbox-settings", SettingsTable)
    app.add_directive("command-options", CommandOptions)
    return {"parallel_read_safe": True}


class LiveTable(SphinxDirective):
    """A table whose cells are written in reStructuredText."""

    def table(self, head: list[str], widths: str, rows: Iterable[list[str]]) -> list[nodes.Node]:
        """Return the table as nodes; `widths` are the columns' shares of it."""
        lines = [".. list-table::", "   :header-rows: 1", "   :class: live-table"]
        lines += [f"   :widths: {widths}", ""]
        for row in (head, *rows):
            lines += [f"   {'*' if not index else ' '} - {cell}" for index, cell in enumerate(row)]
        box = nodes.container()
        self.state.nested_parse(StringList(lines, source=self.name), self.content_offset, box)
        return box.children


class SettingsTable(LiveTable):
    """Every setting, in the order of `conf.py`."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        rows = [
            [f"`{name}`", f"`{_literal(setting.default)}`", setting.meaning]
            for name, setting in all_settings().items()
        ]
        return self.table(["setting", "default", "meaning"], "36 24 40", rows)


class CommandOptions(LiveTable):
    """The options of a command, without those of every Django command."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        command = load_command_class("django_broadcaster", self.arguments[0])
        rows = [[f"`{_usage(action)}`", action.help or ""] for action in _own_actions(command)]
        return self.table(["option", "meaning"], "36 64", rows)


def _own_actions(command: BaseCommand) -> list[argparse.Action]:
    common = {action.dest for action in BaseCommand().create_parser("manage.py", "x")._actions}
    parser = command.create_parser("manage.py", "x")
    return [action for action in parser._actions if action.dest not in common]


def _usage(action: argparse.Action) -> str:
    if not action.option_strings:
        return str(action.metavar or action.dest)
    option = action.option_strings[-1]
    return option if action.nargs == 0 else f"{option} {action.metavar or action.dest.upper()}"


def _literal(value: Any) -> str:
    if isinstance(value, timedelta):
        return f"timedelta(days={value.days})"
    return repr(value)
