"""`manage.py outbox_catalogue`: describe all events, and find changes that break consumers."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.core.management.base import CommandError

from django_broadcaster.catalogue.changes import Change, breaking_changes, upgraded_events
from django_broadcaster.catalogue.document import asyncapi_document, load_events
from django_broadcaster.catalogue.errors import CatalogueError
from django_broadcaster.catalogue.reading import DOCUMENT, read_document
from django_broadcaster.catalogue.schemas import is_schema_of_catalogue, schema_files
from django_broadcaster.catalogue.source_lines import place_of_change
from django_broadcaster.exceptions import BackendConfigurationError
from django_broadcaster.management.base import ExplainedCommand
from django_broadcaster.management.output import as_json, printable

SCHEMAS: Final = "schemas"
BROKEN: Final = 1
"""The exit status if a change breaks consumers."""


class Command(ExplainedCommand):
    """Write the catalogue, or compare it with a committed one."""

    help = (
        "Writes an AsyncAPI document of all declared events, backends, consumers and handlers, and "
        "the JSON Schema of each event. With --check, compares it with a committed catalogue."
    )
    examples = (
        "",
        "--output catalogue",
        "--check catalogue",
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the command's arguments."""
        action = parser.add_mutually_exclusive_group()
        action.add_argument(
            "--output",
            type=Path,
            metavar="DIRECTORY",
            help="write the catalogue into this directory (default: print the AsyncAPI document)",
        )
        action.add_argument(
            "--check",
            type=Path,
            metavar="PATH",
            help="compare with the catalogue in this directory or file; exit with "
            f"{BROKEN} if a change breaks consumers",
        )
        parser.add_argument(
            "--title", help="name of the application (default: that of the settings' package)"
        )
        parser.add_argument(
            "--api-version",
            default="1.0.0",
            metavar="VERSION",
            help="version of the interface in the AsyncAPI document (default: 1.0.0)",
        )
        parser.add_argument(
            "--module",
            action="append",
            default=[],
            metavar="PATH",
            help="import this module, which declares events; can be repeated (event_handlers and "
            "events of each app are always imported)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command; raise CommandError for wrong settings, classes or files."""
        load_events()
        try:
            for module in options["module"]:
                import_module(module)
            title = options["title"] or str(settings.SETTINGS_MODULE).partition(".")[0]
            document = asyncapi_document(title, options["api_version"])
            if options["check"] is not None:
                self._check(read_document(options["check"]), document, options["check"])
            elif options["output"] is not None:
                self._write(document, options["output"])
            else:
                self.stdout.write(as_json(document))
        except (BackendConfigurationError, CatalogueError, ImportError, TypeError) as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(f"The catalogue can't be written: {error}") from error

    def _write(self, document: Mapping[str, Any], directory: Path) -> None:
        """Write all files; remove the schemas that the command wrote of events that are gone."""
        schemas = directory / SCHEMAS
        texts = {schemas / name: as_json(schema) for name, schema in schema_files().items()}
        schemas.mkdir(parents=True, exist_ok=True)
        for file in schemas.glob("*.json"):
            if file not in texts and is_schema_of_catalogue(file):
                file.unlink()
        texts[directory / DOCUMENT] = as_json(document)
        for file, text in texts.items():
            file.write_text(f"{text}\n", encoding="utf-8")
        self.stdout.write(f"Wrote {len(texts)} files to {directory}.")

    def _check(self, old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
        """Report each change that breaks consumers."""
        changes = breaking_changes(old, new)
        for change in changes:
            self.stdout.write(self.style.ERROR(printable(_text(change))))
            self.stdout.write(f"    Fix: {change.fix}")
        if changes:
            count = len(changes)
            self.stdout.write(
                f"{count} {'change breaks' if count == 1 else 'changes break'} consumers."
            )
            sys.exit(BROKEN)
        for event_type, (was, now) in sorted(upgraded_events(old, new).items()):
            self.stdout.write(
                f"{printable(event_type)} has version {now}, after {was}. Deploy its consumers "
                "before its publishers."
            )
        if old == new:
            self.stdout.write("The catalogue is up to date.")
            return
        directory = path if path.is_dir() else path.parent
        self.stdout.write(
            "The changes are compatible. Write the catalogue again: manage.py outbox_catalogue "
            f"--output {directory}"
        )


def _text(change: Change) -> str:
    return f"{place_of_change(change)}: {change.field} {change.problem}."
