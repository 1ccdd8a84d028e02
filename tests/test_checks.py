"""System checks: every wrong setting is found, with the fix to write and without its secrets."""

import re
import sys
from collections.abc import Callable
from datetime import timedelta
from importlib.metadata import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, TypedDict

import pytest
from cryptography.fernet import Fernet
from django.core.checks import CheckMessage, run_checks
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection
from django.test import override_settings

from django_broadcaster import backends, checks
from django_broadcaster.archives import Archive
from django_broadcaster.backends import Message, MessageBackend
from django_broadcaster.conf import all_settings
from django_broadcaster.consumers import CloudEventView
from django_broadcaster.registry import event_registry
from django_broadcaster.typed_events import event_types, typed_event, upcasts
from tests.support.memory_broker import MemoryConsumer
from tests.support.own_servers import as_alias
from tests.support.registered import only_handlers

ROOT = Path(__file__).resolve().parent.parent
SECRET = "corr3ct-horse battery"  # with a space, so that its parts are seen to go as well


class StrictBackend(MessageBackend):
    """Judges its options as a broker's backend does, and quotes them when they are wrong."""

    def __init__(
        self, *, url: str = "", password: str = "", max_len: int = 1, **options: Any
    ) -> None:
        super().__init__(**options)
        if url and not url.startswith("redis://"):
            raise ValueError(f"url: {url!r} does not start with 'redis://'")
        if url:
            int(url.rpartition(":")[2])
        if password == SECRET:
            raise ValueError(f"password: {password!r} was refused")
        if max_len < 1:
            raise ValueError(f"max_len: must be 1 or more, not {max_len}")

    def send(self, message: Message) -> None:
        """Accept everything."""


class UnfinishedBackend(MessageBackend):
    """Lacks `send`."""


class BrokenBackend(MessageBackend):
    """Raises what no contract foresees."""

    def __init__(self, *, alias: str, token: str) -> None:
        raise KeyError(f"no such token: {token}")

    def send(self, message: Message) -> None:
        """Accept everything."""


class UnfinishedArchive(Archive):
    """Lacks `store`."""


class FickleArchive(Archive):
    """Quotes what it does not like."""

    def __init__(self, *, token: str) -> None:
        raise ValueError(f"token: {token!r} was refused")

    def store(self, leaving: Any) -> None:
        """Keep everything."""


CONSUMER = "tests.support.memory_broker.MemoryConsumer"
STRICT = f"{__name__}.StrictBackend"
REDIS = "django_broadcaster.backends.RedisStreamBackend"
TABLE = "django_broadcaster.archives.TableArchive"
FILE = "django_broadcaster.archives.FileArchive"


def archive(value: Any) -> dict[str, Any]:
    """Return settings with this archive."""
    return {"OUTBOX_ARCHIVE": value}


def publishers(**entry: Any) -> dict[str, Any]:
    """Return settings with one backend, whose entry has these keys."""
    return {"OUTBOX_PUBLISHERS": {"default": {"BACKEND": STRICT, **entry}}}


def backend(name: object) -> dict[str, Any]:
    """Return settings with one backend of that dotted path."""
    return {"OUTBOX_PUBLISHERS": {"default": {"BACKEND": name}}}


def consumers(entries: object = None, **entry: Any) -> dict[str, Any]:
    """Return settings with a local backend and consumers: these, or one whose entry has these."""
    local = {"default": {"BACKEND": "django_broadcaster.backends.LocalBackend"}}
    if entries is None:
        entries = {"orders": {"CONSUMER": CONSUMER, **entry}}
    return {"OUTBOX_PUBLISHERS": local, "OUTBOX_CONSUMERS": entries}


def routes(routes: object) -> dict[str, Any]:
    """Return settings with a valid backend and these routes."""
    return {**publishers(), "OUTBOX_ROUTES": routes}


def worker(**items: object) -> dict[str, Any]:
    """Return a valid backend, and OUTBOX_WORKER of version 0.1."""
    return {**publishers(), "OUTBOX_WORKER": items}


def former_retention(**items: object) -> dict[str, Any]:
    """Return a valid backend, and OUTBOX_RETENTION as in version 0.1."""
    return {**publishers(), "OUTBOX_RETENTION": {"PUBLISHED_RETENTION_DAYS": 3, **items}}


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"OUTBOX_CONSUMERS": []}, "E046", "Set OUTBOX_CONSUMERS = {'orders'"),
    (consumers({"": {"CONSUMER": CONSUMER}}), "E047", "Rename it in OUTBOX_CONSUMERS"),
    (consumers({"orders": "redis"}), "E048", "Set OUTBOX_CONSUMERS = {'orders'"),
    (consumers(DELIVER="default"), "E049", "rename 'DELIVER' to 'DELIVER_TO'"),
    (consumers(CONSUMER=7), "E050", "subclass of django_broadcaster.consumers.Consumer"),
    (consumers(CONSUMER=STRICT), "E050", "subclass of django_broadcaster.consumers.Consumer"),
    (
        consumers(CONSUMER="django_broadcaster.consumers.Consumer"),
        "E050",
        "Define acknowledge, close",
    ),
    (
        consumers(CONSUMER="django_broadcaster.consumers.SQSConsumers"),
        "E050",
        "'django_broadcaster.consumers.SQSConsumer'",
    ),
    (consumers(OPTIONS=[]), "E051", "['OPTIONS'] = {}"),
    (consumers(OPTIONS={"orderd": True}), "E051", "rename 'orderd' to 'ordered'"),
    (consumers(OPTIONS={"ordered": 1}), "E051", "correct the option named in the message"),
    (
        consumers(OPTIONS={"decode": "shop.nothing"}),
        "E051",
        "correct the option named in the message",
    ),
    (consumers(DELIVER_TO="nobody"), "E052", "['DELIVER_TO'] = 'handlers'"),
    (
        {**publishers(), "OUTBOX_CONSUMERS": {"o": {"CONSUMER": CONSUMER}}},
        "E052",
        "['DELIVER_TO'] = 'handlers'",
    ),
    # settings, id, a part of the hint
    ({"OUTBOX_PUBLISHERS": {}}, "E001", "OUTBOX_PUBLISHERS = {'default': {'BACKEND'"),
    ({"OUTBOX_PUBLISHERS": None}, "E001", "OUTBOX_PUBLISHERS = {'default': {'BACKEND'"),
    ({"OUTBOX_PUBLISHERS": [STRICT]}, "E001", "OUTBOX_PUBLISHERS = {'default': {'BACKEND'"),
    ({"OUTBOX_PUBLISHERS": {"": {"BACKEND": STRICT}}}, "E002", "Rename it"),
    ({"OUTBOX_PUBLISHERS": {"a" * 65: {"BACKEND": STRICT}}}, "E002", "Rename it"),
    ({"OUTBOX_PUBLISHERS": {7: {"BACKEND": STRICT}}}, "E002", "Rename it"),
    ({"OUTBOX_PUBLISHERS": {"default": STRICT}}, "E003", "{'default': {'BACKEND'"),
    (publishers(OPTION={}), "E004", "rename 'OPTION' to 'OPTIONS'"),
    (publishers(retry={}), "E004", "rename 'retry' to 'RETRY'"),
    (publishers(COLOUR="red"), "E004", "remove 'COLOUR'. Known keys: 'BACKEND'"),
    (backend(REDIS), "W004", "OUTBOX_PUBLISHERS['default']['OPTIONS']['max_len'] = None"),
    (publishers(BACKEND=REDIS, OPTIONS={"max_len": 5}), "W004", "['django_broadcaster.W004']"),
    (publishers(BACKEND=REDIS, OPTIONS={"timeout": 5}), "E006", "'timeout' to 'socket_timeout'"),
    ({"OUTBOX_PUBLISHERS": {"default": {}}}, "E005", "['BACKEND'] = 'django_broadcaster"),
    (backend("django_broadcaster.backends.RedisBackend"), "E005", "backends.RedisStreamBackend'"),
    (backend("no.such.module"), "E005", "subclass of django_broadcaster.backends.PublisherB"),
    (backend("nodots"), "E005", "['BACKEND'] = 'django_broadcaster.backends.LocalBackend'"),
    (backend("builtins.dict"), "E005", "subclass of django_broadcaster.backends.PublisherBackend"),
    (backend(StrictBackend), "E005", "['BACKEND'] = 'django_broadcaster.backends.LocalBackend'"),
    (backend(f"{__name__}.UnfinishedBackend"), "E005", "Define send in UnfinishedBackend"),
    (publishers(OPTIONS=["url"]), "E006", "['OPTIONS'] = {}"),
    (publishers(OPTIONS={"max_length": 5}), "E006", "rename 'max_length' to 'max_len'"),
    (
        publishers(OPTIONS={"colour": 5}),
        "E006",
        "remove 'colour'. StrictBackend accepts 'max_",
    ),
    (publishers(OPTIONS={"max_len": 0}), "E006", "correct the option named in the message"),
    (publishers(RETRY=5), "E007", "['RETRY'] = {'initial': 10.0, 'factor': 8.0,"),
    (publishers(RETRY={"inital": 5}), "E007", "rename 'inital' to 'initial'"),
    (publishers(RETRY={"random": 5}), "E007", "remove 'random'. Known keys: 'factor', 'initial'"),
    (publishers(RETRY={"initial": 0}), "E007", "['RETRY'] = {'initial': 10.0"),
    (publishers(RETRY={"maximum": float("nan")}), "E007", "['RETRY'] = {'initial': 10.0"),
    (publishers(RETRY={"jitter": True}), "E007", "'jitter': 0.1, 'max_retries': 3}"),
    (publishers(ON_EXHAUSTED="stop"), "E008", "['ON_EXHAUSTED'] = 'skip'"),
    (publishers(ON_EXHAUSTED=["block"]), "E008", "['ON_EXHAUSTED'] = 'skip'"),
    ({"OUTBOX_RETRY": 3}, "E009", "OUTBOX_RETRY = {'initial': 10.0"),
    ({"OUTBOX_RETRY": {"max_retries": -1}}, "E009", "'max_retries': 3}"),
    ({"OUTBOX_RETRY": {"max_retries": 1.5}}, "E009", "'max_retries': 3}"),
    ({"OUTBOX_RETRY": {"retries": 3}}, "E009", "rename 'retries' to 'max_retries'"),
    (publishers(RETRY={"max_retries": 40_000}), "E007", "'max_retries': 3}"),
    ({"OUTBOX_RETRY": {"factr": 3}}, "E009", "rename 'factr' to 'factor'"),
    ({"OUTBOX_RETRY": {"factor": 0.5}}, "E009", "OUTBOX_RETRY = {'initial': 10.0"),
    ({"OUTBOX_RETRY": {"factor": "2"}}, "E009", "OUTBOX_RETRY = {'initial': 10.0"),
    ({"OUTBOX_CIRCUIT": []}, "E010", "OUTBOX_CIRCUIT = {'initial'"),
    ({"OUTBOX_CIRCUIT": {"probe": 3}}, "E010", "Known keys: 'initial', 'maximum', 'probe_size'"),
    ({"OUTBOX_CIRCUIT": {"clock": 3}}, "E010", "remove 'clock'"),
    ({"OUTBOX_CIRCUIT": {"initial": 0}}, "E010", "OUTBOX_CIRCUIT = {'initial'"),
    ({"OUTBOX_CIRCUIT": {"initial": 5, "maximum": 1}}, "E010", "OUTBOX_CIRCUIT = {'initial'"),
    ({"OUTBOX_CIRCUIT": {"probe_size": 0}}, "E010", "OUTBOX_CIRCUIT = {'initial'"),
    ({"OUTBOX_CIRCUIT": {"probe_size": 1.5}}, "E010", "OUTBOX_CIRCUIT = {'initial'"),
    (routes(["order.*"]), "E011", "OUTBOX_ROUTES = {'order.*': 'default'}"),
    (routes({"": "default"}), "E011", "OUTBOX_ROUTES = {'order.*': 'default'}"),
    (routes({7: "default"}), "E011", "OUTBOX_ROUTES = {'order.*': 'default'}"),
    (routes({"order.*": []}), "E012", "OUTBOX_ROUTES = {'order.*': 'default'}"),
    (routes({"order.*": ""}), "E012", "OUTBOX_ROUTES = {'order.*': 'default'}"),
    (routes({"order.*": None}), "E012", "OUTBOX_ROUTES = {'order.*': 'default'}"),
    (routes({"order.*": ["default", 7]}), "E012", "OUTBOX_ROUTES = {'order.*': 'default'}"),
    (routes({"order.*": "defualt"}), "E013", "use 'default' instead of 'defualt'"),
    (routes({"order.*": ["default", "orders"]}), "E013", "one of 'default' instead of 'orders'"),
    (routes({"a": ["default", "default"]}), "E014", "OUTBOX_ROUTES['a'] = ['default']"),
    ({"OUTBOX_REQUIRE_TRANSACTION": "False"}, "E015", "OUTBOX_REQUIRE_TRANSACTION = False"),
    ({"OUTBOX_RETENTION": -1}, "E016", "OUTBOX_RETENTION = timedelta(days=7)"),
    ({"OUTBOX_RETENTION": timedelta(-1)}, "E016", "OUTBOX_RETENTION = timedelta(days=7)"),
    ({"OUTBOX_RETENTION": True}, "E016", "OUTBOX_RETENTION = timedelta(days=7)"),
    ({"OUTBOX_RETENTION": "7 days"}, "E016", "OUTBOX_RETENTION = timedelta(days=7)"),
    ({"OUTBOX_RETENTION": float("inf")}, "E016", "OUTBOX_RETENTION = timedelta(days=7)"),
    ({"OUTBOX_RETENTION": timedelta.max}, "E016", "OUTBOX_RETENTION = timedelta(days=7)"),
    (
        {"OUTBOX_RETENTION": {"failed": -1}},
        "E016",
        "OUTBOX_RETENTION['failed'] = timedelta(days=7)",
    ),
    ({"OUTBOX_RETENTION": {"canceled": 5}}, "E016", "rename 'canceled' to 'cancelled'"),
    ({"OUTBOX_MAX_RETRIES": -1}, "E029", "OUTBOX_MAX_RETRIES = 3"),
    ({"OUTBOX_MAX_RETRIES": "3"}, "E029", "OUTBOX_MAX_RETRIES = 3"),
    ({"OUTBOX_WORKER": []}, "E027", "OUTBOX_BATCH_SIZE and OUTBOX_POLL_INTERVAL instead"),
    (worker(BATCH_SIZES=5), "E027", "rename 'BATCH_SIZES' to 'BATCH_SIZE'"),
    (worker(BATCH_SIZE=0), "E027", "OUTBOX_WORKER['BATCH_SIZE'] = 100"),
    (worker(BATCH_SIZE="100"), "E027", "OUTBOX_WORKER['BATCH_SIZE'] = 100"),
    (worker(SLEEP_TIME=0), "E027", "OUTBOX_WORKER['SLEEP_TIME'] = 5"),
    (worker(SLEEP_TIME=float("nan")), "E027", "OUTBOX_WORKER['SLEEP_TIME'] = 5"),
    (worker(MAX_RETRIES=-1), "E027", "OUTBOX_WORKER['MAX_RETRIES'] = 3"),
    (worker(MAX_RETRIES=True), "E027", "OUTBOX_WORKER['MAX_RETRIES'] = 3"),
    (worker(RETRY_BACKOFF="yes"), "E027", "OUTBOX_WORKER['RETRY_BACKOFF'] = True"),
    (worker(BATCH_SIZE=7), "I001", "Set OUTBOX_BATCH_SIZE = 7 instead."),
    ({**worker(BATCH_SIZE=7), "OUTBOX_BATCH_SIZE": 8}, "I001", "Remove it."),
    (worker(), "I001", "Remove it."),
    (
        former_retention(PUBLISHED_RETENTION=7),
        "E028",
        "rename 'PUBLISHED_RETENTION' to 'PUBLISHED_",
    ),
    (former_retention(CLEANUP_PUBLISHED=0), "E028", "OUTBOX_RETENTION['CLEANUP_PUBLISHED'] = True"),
    (former_retention(FAILED_RETENTION_DAYS=-1), "E028", "['FAILED_RETENTION_DAYS'] = 30"),
    (
        former_retention(FAILED_RETENTION_DAYS=timedelta(days=1)),
        "E028",
        "['FAILED_RETENTION_DAYS'] = 30",
    ),
    (former_retention(), "I002", "OUTBOX_RETENTION = {'published': timedelta(days=3)}"),
    ({"OUTBOX_INBOX_RETENTION": 0}, "E017", "OUTBOX_INBOX_RETENTION = timedelta(days="),
    ({"OUTBOX_INBOX_RETENTION": False}, "E017", "OUTBOX_INBOX_RETENTION = timedelta(days="),
    ({"OUTBOX_HISTORY_RETENTION": 0}, "E026", "OUTBOX_HISTORY_RETENTION = timedelta(days="),
    (publishers(RETENTION=-1), "E032", "['RETENTION'] = timedelta(days=7)"),
    (publishers(RETENTION="7 days"), "E032", "['RETENTION'] = timedelta(days=7)"),
    (publishers(RETENTION={"failed": True}), "E032", "['failed'] = timedelta(days=7)"),
    (publishers(RETENTION={"canceled": 5}), "E032", "rename 'canceled' to 'cancelled'"),
    (publishers(RETENTION={"pending": 5}), "E032", "Known keys: 'cancelled', 'failed', 'publi"),
    (archive("FileArchive"), "E033", "OUTBOX_ARCHIVE = {'BACKEND': 'django_broadcaster.archives."),
    (archive(5), "E033", "OUTBOX_ARCHIVE = {'BACKEND'"),
    (archive({"OPTIONS": {}}), "E033", "OUTBOX_ARCHIVE = {'BACKEND'"),
    (archive({"BACKEND": TABLE, "OPTION": {}}), "E033", "rename 'OPTION' to 'OPTIONS'"),
    (archive({"BACKEND": TABLE, "OPTIONS": []}), "E033", "OUTBOX_ARCHIVE['OPTIONS'] = {}"),
    (archive({"BACKEND": TABLE, "OPTIONS": {"x": 1}}), "E033", "remove 'x'. TableArchive accepts"),
    (archive({"BACKEND": "no.such"}), "E033", "OUTBOX_ARCHIVE = {'BACKEND'"),
    (archive({"BACKEND": STRICT}), "E033", "OUTBOX_ARCHIVE = {'BACKEND'"),
    (archive({"BACKEND": f"{__name__}.UnfinishedArchive"}), "E033", "Define store in Unfinished"),
    (archive({"BACKEND": FILE}), "E033", "correct the option named in the message. FileArchive"),
    (archive({"BACKEND": FILE, "OPTIONS": {"directoy": "/x"}}), "E033", "to 'directory'"),
    (archive({"BACKEND": FILE, "OPTIONS": {"directory": "/x", "level": 0}}), "E033", "correct the"),
    ({**archive({"BACKEND": TABLE}), "OUTBOX_RETENTION": 0}, "W005", "['RETENTION'] = 60"),
    ({**archive({"BACKEND": TABLE}), **publishers(RETENTION={"published": 0})}, "W005", "= 60"),
    ({"OUTBOX_TIME_PARTITIONS": 0}, "E034", "OUTBOX_TIME_PARTITIONS = None"),
    ({"OUTBOX_TIME_PARTITIONS": "day"}, "E034", "OUTBOX_TIME_PARTITIONS = None"),
    (
        {**archive({"BACKEND": TABLE}), "OUTBOX_TIME_PARTITIONS": 60},
        "E036",
        "OUTBOX_ARCHIVE = None",
    ),
    ({"OUTBOX_BATCH_SIZE": 0}, "E018", "OUTBOX_BATCH_SIZE = 500"),
    ({"OUTBOX_BATCH_SIZE": 10_001}, "E018", "OUTBOX_BATCH_SIZE = 500"),
    ({"OUTBOX_BATCH_SIZE": "500"}, "E018", "OUTBOX_BATCH_SIZE = 500"),
    ({"OUTBOX_BATCH_SIZE": True}, "E018", "OUTBOX_BATCH_SIZE = 500"),
    ({"OUTBOX_BATCH_BYTES": 0}, "E030", "OUTBOX_BATCH_BYTES = 16000000"),
    ({"OUTBOX_BATCH_BYTES": 1e6}, "E030", "OUTBOX_BATCH_BYTES = 16000000"),
    ({"OUTBOX_POLL_INTERVAL": 0}, "E019", "OUTBOX_POLL_INTERVAL = 1.0"),
    ({"OUTBOX_POLL_INTERVAL": timedelta(seconds=1)}, "E019", "OUTBOX_POLL_INTERVAL = 1.0"),
    ({"OUTBOX_PARTITIONS": 0}, "E020", "OUTBOX_PARTITIONS = 64"),
    ({"OUTBOX_PARTITIONS": 1025}, "E020", "OUTBOX_PARTITIONS = 64"),
    ({"OUTBOX_PARTITIONS": 6.4}, "E020", "OUTBOX_PARTITIONS = 64"),
    ({"OUTBOX_LEASE_SECONDS": 1.9}, "E021", "OUTBOX_LEASE_SECONDS = 15.0"),
    ({"OUTBOX_LEASE_SECONDS": None}, "E021", "OUTBOX_LEASE_SECONDS = 15.0"),
    ({"OUTBOX_SHUTDOWN_TIMEOUT": -1}, "E022", "OUTBOX_SHUTDOWN_TIMEOUT = 30.0"),
    ({"OUTBOX_NOTIFY": "no"}, "E025", "OUTBOX_NOTIFY = True"),
    ({"OUTBOX_MAX_LAG_SECONDS": 0}, "E037", "OUTBOX_MAX_LAG_SECONDS = 60.0"),
    ({"OUTBOX_MAX_LAG_SECONDS": "60"}, "E037", "OUTBOX_MAX_LAG_SECONDS = 60.0"),
    ({"OUTBOX_MAX_RETRY_AGE_SECONDS": 0}, "E039", "OUTBOX_MAX_RETRY_AGE_SECONDS = 3600.0"),
    ({"OUTBOX_FAILING_RATIO": 0}, "E043", "OUTBOX_FAILING_RATIO = 0.5"),
    ({"OUTBOX_FAILING_RATIO": 50}, "E043", "OUTBOX_FAILING_RATIO = 0.5"),
    ({"OUTBOX_FAILING_ATTEMPTS": 0}, "E044", "OUTBOX_FAILING_ATTEMPTS = 10"),
    ({"OUTBOX_FAILING_MINUTES": 61}, "E045", "OUTBOX_FAILING_MINUTES = 5"),
    ({"OUTBOX_STALL_SECONDS": 0.5}, "E038", "OUTBOX_STALL_SECONDS = 120.0"),
    ({"OUTBOX_STALL_SECONDS": None}, "E038", "OUTBOX_STALL_SECONDS = 120.0"),
    ({"OUTBOX_MAX_CRASHES": 1}, "E023", "OUTBOX_MAX_CRASHES = 3"),
    ({"OUTBOX_ENCRYPTION_KEYS": Fernet.generate_key()}, "E040", "OUTBOX_ENCRYPTION_KEYS = [key]"),
    ({"OUTBOX_ENCRYPTION_KEYS": ["hunter2"]}, "E040", "Fernet.generate_key()"),
    ({"OUTBOX_ENCRYPTION_KEYS": [Fernet.generate_key(), 7]}, "E040", "Fernet.generate_key()"),
    ({"OUTBOX_REDACTOR": print}, "E041", "OUTBOX_REDACTOR = 'mysite.redaction.redact'"),
    ({"OUTBOX_REDACTOR": "no.such.function"}, "E041", "a function of yours"),
    ({"OUTBOX_REDACTOR": "django_broadcaster.redaction.MASK"}, "E041", "a function of yours"),
    ({"OUTBOX_JSON_ENCODER": DjangoJSONEncoder}, "E042", "'mysite.encoders.Encoder'"),
    ({"OUTBOX_JSON_ENCODER": "no.such.Encoder"}, "E042", "DjangoJSONEncoder of yours"),
    ({"OUTBOX_JSON_ENCODER": "decimal.Decimal"}, "E042", "DjangoJSONEncoder of yours"),
    ({"OUTBOX_POLL_INTERVAL": 5}, "W001", "OUTBOX_LEASE_SECONDS = 20"),
    ({"OUTBOX_BATCHSIZE": 5}, "W002", "Rename it to OUTBOX_BATCH_SIZE"),
    ({"OUTBOX_RETENTON": 5}, "W002", "Rename it to OUTBOX_RETENTION"),
    ({"OUTBOX_BACKENDS": {}}, "W002", "Remove it."),
    ({"OUTBOX_DATABASE": "x"}, "W002", "Remove it."),
    ({"OUTBOX_ZZZZ": 5}, "W002", "SILENCED_SYSTEM_CHECKS = ['django_broadcaster.W002']"),
]

RIGHT: list[dict[str, Any]] = [
    {},
    publishers(OPTIONS={"url": "redis://localhost:6379", "password": "x", "max_message_bytes": 9}),
    publishers(RETRY={"initial": 0.1, "maximum": 5}, ON_EXHAUSTED="block"),
    {**publishers(RETRY={"maximum": 5}), "OUTBOX_RETRY": {"initial": 2}},
    {**publishers(RETRY={"max_retries": 20}), "OUTBOX_RETRY": {"max_retries": 0}},
    routes({"order.*": "default", "*": ["default"], "user.*": ("default",)}),
    {"OUTBOX_REQUIRE_TRANSACTION": True},
    {"OUTBOX_ENCRYPTION_KEYS": [Fernet.generate_key(), Fernet.generate_key().decode()]},
    {"OUTBOX_REDACTOR": "django_broadcaster.redaction.masked"},
    {"OUTBOX_JSON_ENCODER": "django.core.serializers.json.DjangoJSONEncoder"},
    {"OUTBOX_RETENTION": None, "OUTBOX_INBOX_RETENTION": None},
    {"OUTBOX_RETENTION": 0, "OUTBOX_INBOX_RETENTION": 3600},
    {"OUTBOX_RETENTION": timedelta(0), "OUTBOX_INBOX_RETENTION": timedelta(hours=1)},
    publishers(BACKEND=REDIS, OPTIONS={"max_len": None, "connect_timeout": 1, "socket_timeout": 1}),
    {"OUTBOX_RETENTION": {"failed": timedelta(days=1), "cancelled": None}, "OUTBOX_MAX_RETRIES": 0},
    publishers(RETENTION=0),
    publishers(RETENTION=None),
    publishers(RETENTION={"published": timedelta(days=1), "failed": 86400, "cancelled": None}),
    {**archive({"BACKEND": TABLE}), "OUTBOX_RETENTION": 0, **publishers(RETENTION=60)},
    {"OUTBOX_TIME_PARTITIONS": timedelta(days=1)},
    archive({"BACKEND": FILE, "OPTIONS": {"directory": "/nowhere/at/all", "level": 1}}),
    {"OUTBOX_BATCH_SIZE": 1, "OUTBOX_PARTITIONS": 1, "OUTBOX_MAX_CRASHES": 2},
    {"OUTBOX_BATCH_SIZE": 10_000, "OUTBOX_PARTITIONS": 1024},
    {"OUTBOX_POLL_INTERVAL": 0.1, "OUTBOX_LEASE_SECONDS": 2, "OUTBOX_SHUTDOWN_TIMEOUT": 0},
    {"OUTBOX_CIRCUIT": {"initial": 1, "maximum": 60, "probe_size": 1}},
]


def found(**settings: Any) -> list[CheckMessage]:
    """Return what the checks say about a project with these settings."""
    with override_settings(**{**publishers(), **settings}):
        return run_checks(tags=[checks.TAG])


@pytest.mark.parametrize(("settings", "number", "hint"), WRONG)
def test_wrong_setting_is_found_with_its_fix(
    settings: dict[str, Any], number: str, hint: str
) -> None:
    """A wrong setting gives one message, with its stable id and a hint of what to write."""
    [message] = found(**settings)

    assert message.id == f"django_broadcaster.{number}"
    assert hint in (message.hint or "")
    assert "OUTBOX_" in message.msg


CLIENTS = {
    name: backend.client_library
    for name in backends.__all__
    if (backend := getattr(backends, name))
    and isinstance(backend, type)
    and issubclass(backend, MessageBackend)
    and backend.client_library
}


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_library_that_is_missing_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What to install is said before the relay starts, and is an extra that there is."""
    module, extra = CLIENTS[name]
    setting = {"default": {"BACKEND": f"django_broadcaster.backends.{name}"}}

    def missing() -> list[CheckMessage]:
        messages = found(OUTBOX_PUBLISHERS=setting)
        return [each for each in messages if each.id == "django_broadcaster.W003"]

    assert missing() == []
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    (message,) = missing()
    assert f"OUTBOX_PUBLISHERS['default']: the client library {module!r}" in message.msg
    assert f"'django-broadcaster[{extra}]'" in (message.hint or "")
    assert extra in (metadata("django-broadcaster").get_all("Provides-Extra") or [])


def test_a_client_library_that_a_test_stands_in_for_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A module that somebody made, without a spec, breaks no check."""
    monkeypatch.setitem(sys.modules, "redis", ModuleType("redis"))
    setting = {"default": {"BACKEND": "django_broadcaster.backends.RedisStreamBackend"}}
    assert "django_broadcaster.W003" not in [each.id for each in found(OUTBOX_PUBLISHERS=setting)]


def test_backends_with_an_extra_name_their_client() -> None:
    """Only those that need nothing, or Django alone, name none."""
    named = {getattr(backends, name) for name in CLIENTS}
    needless = {"Console", "Debezium", "Dummy", "Local", "LocMem", "Tasks"}
    others = {f"{name}Backend" for name in needless} | {"MessageBackend", "PublisherBackend"}
    assert {each.__name__ for each in named} | others == {
        name for name in backends.__all__ if name.endswith("Backend")
    }


@pytest.mark.parametrize("settings", RIGHT)
def test_right_setting_passes(settings: dict[str, Any]) -> None:
    """A right setting, at its bounds too, gives no message."""
    assert found(**settings) == []


def test_every_setting_has_a_check() -> None:
    """Each setting that there is stands in the table of wrong values."""
    assert set(all_settings()) <= {name for settings, *_ in WRONG for name in settings}


def test_every_id_is_documented_and_tested() -> None:
    """The ids of the reference page are those that the tests produce, without a gap."""
    of_rules = {each.id for each in all_settings().values() if each.check}
    page = (ROOT / "docs/reference/checks.md").read_text()
    by_hand = set(re.findall(r"^\| `([EWI]\d{3})` \|", page, flags=re.MULTILINE))

    produced = {number for _, number, _ in WRONG} | {
        *("E024", "E031", "E035", "E053", "E054", "E055", "E056"),
        *("E057", "E058", "E059", "E060", "W015", "W016", "W017"),  # tests/tasks/test_checks.py
        *("W003", "W006", "W007", "W008", "W009", "W010", "W011", "W012"),
        *("W013", "W014"),
    }
    assert of_rules | by_hand == produced
    assert not of_rules & by_hand
    for letter in "EWI":
        numbers = sorted(int(each[1:]) for each in produced if each[0] == letter)
        assert numbers == list(range(1, len(numbers) + 1))


def test_every_setting_names_its_checks() -> None:
    """A setting declares the id of every check that a wrong value of it alone fails."""
    declared = {name: {each.id, *each.related} for name, each in all_settings().items()}
    for settings, number, _ in WRONG:
        for name in settings if len(settings) == 1 else ():
            assert name not in declared or number in declared[name]


def test_several_problems_are_found_at_once() -> None:
    """One wrong entry does not hide another."""
    wrong = {"a": {"BACKEND": "no.such"}, "b": {"BACKEND": STRICT, "RETRY": {"factor": 0}}, "": 3}

    ids = [message.id[-4:] for message in found(OUTBOX_PUBLISHERS=wrong) if message.id]

    assert sorted(ids) == ["E002", "E003", "E005", "E007"]


@pytest.mark.parametrize(
    "options",
    [
        {"password": SECRET},
        {"url": SECRET},
        {"url": f"redis://user:{SECRET}"},
        {"url": "redis://user:corr3ct%2Dhorse%20battery"},
        {"pasword": SECRET},
        {"max_len": 0, "password": SECRET.encode()},
        {"max_len": {"nested": [SECRET]}},
    ],
)
def test_no_confidential_value_is_shown(options: dict[str, Any]) -> None:
    """What a backend says about its options is shown without the values of those that are secret,
    unknown, addresses or structures, in whole or in part."""
    text = str(found(**publishers(OPTIONS=options)))

    assert "E006" in text
    assert not re.search("corr3ct|horse|battery|4711", text)


def test_a_secret_of_an_archive_is_not_shown() -> None:
    """What an archive says of its options is masked, as what a backend says is."""
    options = {"directory": "/x", "level": 0, "token": SECRET}
    for entry in (
        {"BACKEND": f"{__name__}.FickleArchive", "OPTIONS": {"token": SECRET}},
        {"BACKEND": FILE, "OPTIONS": options},
    ):
        (message,) = found(OUTBOX_ARCHIVE=entry)
        assert message.id == "django_broadcaster.E033"
        for part in SECRET.split():
            assert part not in f"{message.msg} {message.hint}"


def test_a_plain_value_is_shown() -> None:
    """What is wrong with a number or a word is seen when one sees it."""
    (message,) = found(**publishers(OPTIONS={"max_len": -4711, "password": "x"}))
    assert "max_len: must be 1 or more, not -4711" in message.msg
    options = {"content_mode": "batch", "password": SECRET}
    (message,) = found(**publishers(BACKEND=REDIS, OPTIONS=options))
    assert "'batch'" in message.msg


def test_foreign_exception_shows_no_secret() -> None:
    """An exception that the contract does not foresee is an error too, and is masked."""
    entry = {"BACKEND": f"{__name__}.BrokenBackend", "OPTIONS": {"token": SECRET}}

    [message] = found(OUTBOX_PUBLISHERS={"default": entry})

    assert message.id == "django_broadcaster.E006"
    assert "KeyError" in message.msg
    assert SECRET not in str(message)


def test_misplaced_secret_is_not_shown() -> None:
    """A URL where a dict belongs is named by its type alone."""
    wrong: list[Any] = [
        SECRET,
        {"default": SECRET},
        {"default": {"BACKEND": STRICT, "URL": SECRET}},
    ]
    for value in [*wrong, {"default": {"BACKEND": STRICT, "OPTIONS": SECRET}}]:
        assert SECRET not in str(found(OUTBOX_PUBLISHERS=value))


def test_alias_is_shown_though_an_option_has_its_name() -> None:
    """Masking leaves the setting's name readable."""
    [message] = found(**publishers(OPTIONS={"max_len": 0, "url": "redis://default:1"}))

    assert message.msg.startswith("OUTBOX_PUBLISHERS['default']['OPTIONS']: max_len: must be 1")


Alter = Callable[[int], None]


@pytest.fixture
def set_cache(db: None) -> Alter:
    """Change how many ids a connection takes at once."""
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL has sequences with a cache")

    def alter(size: int) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                f"ALTER SEQUENCE django_broadcaster_outboxevent_id_seq CACHE {int(size)}"
            )

    return alter


def test_sequence_with_cache_is_an_error(set_cache: Alter) -> None:
    """Ids that are handed out in blocks break the order per key: the SQL that ends it is named."""
    set_cache(20)

    [message] = [m for m in run_checks(databases=["default"]) if m.id and m.id.endswith("E024")]

    assert "ALTER SEQUENCE django_broadcaster_outboxevent_id_seq CACHE 1;" in (message.hint or "")


@pytest.mark.django_db
def test_database_as_migrated_passes() -> None:
    """The tables as our migrations make them give no database error."""
    ids = [message.id for message in run_checks(tags=["database"], databases=["default"])]

    assert not [name for name in ids if name and name.startswith("django_broadcaster")]


SQLITE = {"ENGINE": "django.db.backends.sqlite3", "HOST": "", "PORT": "", "USER": ""}


@pytest.mark.parametrize(
    ("place", "is_named"),
    [
        ({"NAME": "x.sqlite3"}, True),
        ({"NAME": "x.sqlite3", "OPTIONS": {"transaction_mode": "DEFERRED"}}, True),
        ({"NAME": "x.sqlite3", "OPTIONS": {"transaction_mode": "IMMEDIATE"}}, False),
        ({"NAME": "x.sqlite3", "OPTIONS": {"transaction_mode": "exclusive"}}, False),
        ({"NAME": ":memory:"}, False),
        ({"NAME": "file:x?mode=memory&cache=shared"}, False),
    ],
)
def test_a_late_write_lock_of_sqlite_is_named(place: dict[str, Any], is_named: bool) -> None:
    """Without `transaction_mode` a transaction beside a relay can fail, and the check says so."""
    with as_alias("late", {**SQLITE, **place}):
        found = checks.database.check_transaction_mode(databases=["late"])
    assert [each.id for each in found] == ["django_broadcaster.W007"] * is_named
    assert all("DATABASES['late']['OPTIONS']" in (each.hint or "") for each in found)


def test_database_is_not_asked_unless_named() -> None:
    """A plain `manage.py check` opens no connection for us."""
    assert checks.database.check_id_sequence(databases=None) == []


def test_missing_table_is_no_error(set_cache: Alter) -> None:
    """Before the first migration there is nothing to check."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE django_broadcaster_outboxevent RENAME TO elsewhere")

    assert checks.database.check_id_sequence(databases=["default"]) == []


def test_a_consumer_without_its_client_library_is_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The hint names the extra that installs it."""
    monkeypatch.setattr(MemoryConsumer, "client_library", ("no_such_client", "redis"))
    (problem,) = found(**consumers())
    assert problem.id == "django_broadcaster.W009"
    assert "pip install 'django-broadcaster[redis]'" in (problem.hint or "")


def test_an_inbox_that_forgets_before_the_broker_is_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An event that the broker delivers again after that time would be handled twice."""
    monkeypatch.setattr(MemoryConsumer, "redelivery_seconds", 14 * 86_400.0)
    (problem,) = found(**consumers(), OUTBOX_INBOX_RETENTION=timedelta(days=7))
    assert problem.id == "django_broadcaster.W010"
    assert "timedelta(days=14)" in (problem.hint or "")
    assert found(**consumers(), OUTBOX_INBOX_RETENTION=timedelta(days=14)) == []
    assert found(**consumers(), OUTBOX_INBOX_RETENTION=None) == []


def test_a_handler_of_an_unknown_consumer_is_a_warning() -> None:
    """It would never run, so the hint has the name that was probably meant."""
    with only_handlers():
        event_registry.register(name="bill", consumer="ordres")(print)
        (problem,) = found(**consumers())
        event_registry.clear_handlers()
        event_registry.register(name="bill", consumer="orders")(print)
        assert found(**consumers()) == []
        event_registry.register(name="take", consumer="of a view")(print)
        CloudEventView.as_view(consumer="of a view", verify=False)
        assert found(**consumers()) == []
    assert problem.id == "django_broadcaster.W011"
    assert "consumer='orders'" in (problem.hint or "")


class Later(TypedDict):
    """An event with a field of a type that is not imported."""

    at: "Missing"  # type: ignore[name-defined]  # noqa: F821


class Old(TypedDict):
    """An event of a third version."""

    order: int


@pytest.mark.parametrize(
    ("event_class", "version", "number", "hint"),
    [
        (Later, 1, "E055", "Import the type in the module of the class"),
        (Old, 3, "W012", "@upcasts(Old, from_version=2)"),
    ],
)
def test_an_event_that_cannot_be_read_is_found(
    event_class: type[Any], version: int, number: str, hint: str
) -> None:
    """When Django starts, and not when the first event is published or handled."""
    typed_event("checked", source="/tests", version=version)(event_class)
    if version > 1:
        upcasts(event_class, from_version=1)(dict)
    try:
        (problem,) = found(**publishers())
    finally:
        event_types.remove(event_class)
    assert problem.id == f"django_broadcaster.{number}"
    assert hint in (problem.hint or "")
    assert event_class.__qualname__ in problem.msg
