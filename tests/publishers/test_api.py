"""The publishers API as its page documents it, and what importing it costs."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import textwrap
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from django.test import override_settings

import django_broadcaster
from django_broadcaster import publishers
from django_broadcaster.exceptions import BackendConfigurationError
from django_broadcaster.publishers import OutboxPublisher, publisher
from django_broadcaster.publishing.bulk import KEYWORDS
from tests.support.redis_server import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = Path(django_broadcaster.__file__).resolve().parent.parent

PAGE = {
    "__init__": "()",
    "_load_backends": "()",
    "publish_event": (
        "(event_type: str, source: str, data: Any | None = None, subject: str = '', "
        "backend: str | None = None, scheduled_at: datetime | None = None, max_retries: int = 3, "
        "publisher_config: Dict[str, Any] | None = None) OutboxEvent"
    ),
    "publish_cloud_event": (
        "(cloud_event: CloudEvent, backend: str | None = None, "
        "scheduled_at: datetime | None = None, max_retries: int = 3, "
        "publisher_config: Dict[str, Any] | None = None) OutboxEvent"
    ),
    "process_pending_events": "(batch_size: int = 100) int",
    "_process_single_event": "(event: OutboxEvent) bool",
    "_get_default_backend": "() str | None",
    "get_backend_health": "() Dict[str, bool]",
}
"""The signatures of the API page, as it prints them."""

EXTRAS = {
    "publish_event": [
        "event_id",
        "time",
        "partition_key",
        "extensions",
        "data_content_type",
        "data_schema",
        "using",
    ],
    "publish_cloud_event": ["partition_key", "using"],
}
"""What our methods take beyond the page."""

MORE = {
    "publish_events": [
        "backend",
        "scheduled_at",
        "max_retries",
        "publisher_config",
        "using",
        "batch_size",
    ],
}
"""Our methods beyond the page, and what they take by keyword only."""

TYPED = {"publish"}
"""The method for events of declared classes, whose options have a type."""

AWAITABLE = {"apublish", "apublish_event", "apublish_cloud_event", "apublish_events"}
"""The same in async code."""

CLIENTS = (
    *("redis", "hiredis", "confluent_kafka", "kafka", "aiokafka", "nats", "pika", "aio_pika"),
    *("aiormq", "kombu", "celery", "boto3", "botocore", "paho", "stomp", "pulsar", "google.cloud"),
    "cloudevents",
)
"""Clients of brokers, none of which may be loaded before it is used, and the official SDK."""

LOCMEM = "django_broadcaster.backends.LocMemBackend"


def printed(method: Any) -> str:
    """The signature of a method without its keyword-only part, as the page prints it."""
    signature = inspect.signature(method)
    parameters = []
    for parameter in list(signature.parameters.values())[1:]:
        if parameter.kind is not parameter.KEYWORD_ONLY:
            assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            has_default = parameter.default is not parameter.empty
            default = f" = {parameter.default!r}" if has_default else ""
            parameters.append(f"{parameter.name}: {parameter.annotation}{default}")
    returned = signature.return_annotation
    return f"({', '.join(parameters)}){'' if returned in ('None', None) else f' {returned}'}"


def run(code: str, **environment: str) -> None:
    """Run code in a new interpreter, which sees the sources and the tests, without settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DJANGO")}
    path = os.pathsep.join([str(SOURCES), str(ROOT)])
    subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env={**kept, "PYTHONPATH": path, **environment},
        check=True,
        cwd=ROOT,
    )


@pytest.mark.parametrize("name", PAGE)
def test_signature_is_that_of_the_page(name: str) -> None:
    """Names, order, defaults, annotations and return types are those that were documented."""
    assert printed(getattr(OutboxPublisher, name)) == PAGE[name]


@pytest.mark.parametrize("name", PAGE)
def test_extras_are_keyword_only_and_optional(name: str) -> None:
    """What is taken beyond the page comes after it, by keyword only, and may be left out."""
    parameters = inspect.signature(getattr(OutboxPublisher, name)).parameters.values()
    extras = [each for each in parameters if each.kind is each.KEYWORD_ONLY]
    assert [each.name for each in extras] == EXTRAS.get(name, [])
    assert all(each.default is None for each in extras)


@pytest.mark.parametrize("name", MORE)
def test_methods_beyond_the_page_take_one_thing_and_the_rest_by_keyword(name: str) -> None:
    """Options are keyword-only, and where `publish_event` has them the defaults are its own."""
    _, _, *options = inspect.signature(getattr(OutboxPublisher, name)).parameters.values()
    single = inspect.signature(OutboxPublisher.publish_event).parameters
    assert [each.name for each in options] == MORE[name]
    assert all(each.kind is each.KEYWORD_ONLY for each in options)
    shared = {each.name: each.default for each in options if each.name in single}
    assert shared == {name: single[name].default for name in shared}


def test_dictionaries_of_publish_events_have_the_arguments_of_publish_event() -> None:
    """A dictionary may have every argument but the database, which is one for all events."""
    single = inspect.signature(OutboxPublisher.publish_event).parameters
    assert {*KEYWORDS, "self", "using"} == set(single)


def test_the_options_of_publish_are_those_of_their_type() -> None:
    """Type checkers read `PublishOptions`, and Python the method itself."""
    parameters = inspect.signature(OutboxPublisher.publish).parameters.values()
    hints = get_type_hints(OutboxPublisher.publish)
    options = {each.name: hints[each.name] for each in parameters if each.kind is each.KEYWORD_ONLY}
    assert options == get_type_hints(publishers.PublishOptions)


@pytest.mark.parametrize("name", [*PAGE, *MORE, *TYPED])
def test_annotations_name_real_types(name: str) -> None:
    """Every annotation can be resolved at run time, for those who build on them."""
    hints = get_type_hints(getattr(OutboxPublisher, name))
    assert {"return"} <= hints.keys()


def test_every_public_method_has_a_docstring() -> None:
    """The class offers what the page has and nothing more, each with its contract."""
    public = {name for name in vars(OutboxPublisher) if not name.startswith("_")}
    assert (
        public
        == {name for name in PAGE if not name.startswith("_")} | MORE.keys() | TYPED | AWAITABLE
    )
    assert all(inspect.getdoc(getattr(OutboxPublisher, name)) for name in public)


def test_class_derives_from_object_and_takes_no_arguments() -> None:
    """A publisher of one's own is made without arguments, as on the page."""
    assert OutboxPublisher.__bases__ == (object,)
    assert isinstance(OutboxPublisher(), OutboxPublisher)


def test_publisher_is_a_singleton() -> None:
    """`publisher` is one instance of OutboxPublisher, made when the module is imported."""
    assert type(publisher) is OutboxPublisher
    assert import_module("django_broadcaster.publishers").publisher is publishers.publisher


# --- Importing -----------------------------------------------------------------------------------

PUBLIC = {
    "django_broadcaster.publishers": ["OutboxPublisher", "publisher"],
    "django_broadcaster.events": ["CloudEvent"],
    "django_broadcaster.models": ["OutboxEvent", "OutboxEventStatus"],
    "django_broadcaster.backends": [
        "PublisherBackend",
        "RedisStreamBackend",
        "LocalBackend",
        "LocMemBackend",
        "ConsoleBackend",
        "DummyBackend",
    ],
    "django_broadcaster.registry": ["event_registry"],
}
"""The import paths that applications may rely on."""


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_can_be_imported(module: str) -> None:
    """Every public import path leads to its object."""
    imported = import_module(module)
    assert all(hasattr(imported, name) for name in PUBLIC[module])


@pytest.mark.parametrize(
    "module",
    ["django_broadcaster.events", "django_broadcaster.backends", "django_broadcaster.registry"],
)
def test_imports_before_django_is_set_up(module: str) -> None:
    """Events, backends and the registry import without settings, and load no broker's client."""
    run(f"""
        import sys
        from {module} import {", ".join(PUBLIC[module])}
        from django.apps import apps
        from django.conf import settings
        assert not settings.configured
        assert not apps.ready
        loaded = [name for name in {CLIENTS!r} if name in sys.modules]
        assert not loaded, loaded
    """)


def test_importing_the_publisher_connects_to_nothing() -> None:
    """Importing it opens no socket and no database, and loads no broker's client."""
    run(
        f"""
        import sys
        opened = []
        events = ("socket.connect", "socket.getaddrinfo", "sqlite3.connect")
        sys.addaudithook(lambda event, arguments: event in events and opened.append(arguments))

        import django
        from django.test import override_settings
        django.setup()
        redis = {{"BACKEND": "django_broadcaster.backends.RedisStreamBackend"}}
        with override_settings(OUTBOX_PUBLISHERS={{"default": redis}}):
            from django_broadcaster.publishers import publisher
            publisher._load_backends()

        from django.db import connections
        assert not opened, opened
        assert all(connection.connection is None for connection in connections.all())
        loaded = [name for name in {CLIENTS!r} if name in sys.modules]
        assert not loaded, loaded
        """,
        DJANGO_SETTINGS_MODULE="tests.settings",
    )


# --- Backends ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aliases", "default"),
    [
        (["default"], "default"),
        (["other", "default"], "default"),
        (["other"], "other"),
        (["one", "two"], "one"),
        ([], None),
    ],
)
def test_default_backend(aliases: list[str], default: str | None) -> None:
    """It is the alias `default`, else the first alias, else none."""
    with override_settings(OUTBOX_PUBLISHERS={alias: {"BACKEND": LOCMEM} for alias in aliases}):
        assert publisher._get_default_backend() == default


def test_load_backends_names_a_wrong_setting() -> None:
    """Loading the backends raises an error that names the setting and the alias."""
    wrong = {"default": {"BACKEND": LOCMEM}, "lost": {"BACKEND": "no.such.Backend"}}
    with (
        override_settings(OUTBOX_PUBLISHERS=wrong),
        pytest.raises(BackendConfigurationError, match=r"OUTBOX_PUBLISHERS\['lost'\]\['BACKEND'\]"),
    ):
        publisher._load_backends()


def test_backend_health_is_told_by_alias() -> None:
    """A broker that is away is False under its alias, raises nothing and hides no other."""
    away = {
        "BACKEND": "django_broadcaster.backends.RedisStreamBackend",
        "OPTIONS": {"port": free_port()},
    }
    with override_settings(OUTBOX_PUBLISHERS={"here": {"BACKEND": LOCMEM}, "away": away}):
        assert publisher.get_backend_health() == {"here": True, "away": False}
