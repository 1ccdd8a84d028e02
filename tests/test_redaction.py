"""Secrets of the settings are nowhere to be seen: on real servers, and with tactless clients."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from django.contrib.auth import get_user_model
from django.core.checks import run_checks
from django.core.management import call_command
from django.test import Client, override_settings
from hypothesis import given
from hypothesis import strategies as st

from django_broadcaster import redaction
from django_broadcaster.backends import MessageBackend
from django_broadcaster.backends.base import Message
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    BackendUnavailable,
    Rejected,
    TransientError,
)
from django_broadcaster.models import OutboxAttempt, OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.signals import event_failed, event_retried
from tests.support import (
    kafka_server,
    mosquitto_server,
    nats_server,
    rabbitmq_server,
    redis_server,
)
from tests.support.events import insert
from tests.support.routing import OneDatabase
from tests.support.telemetry import instrumented
from tools.launch import free_port

from .relay.conftest import working

if TYPE_CHECKING:
    from pytest_django import Settings

SECRET = "hunter2-p@ss/word"
"""With characters that a URL has to escape."""

IN_URL = quote(SECRET, safe="")
PACKAGE = Path(redaction.__file__).parent
MINE = "tests.test_redaction."


def place_of(url: str) -> str:
    """The host and the port of a server's address."""
    return url.partition("://")[2].rpartition("@")[2].partition("/")[0]


def nowhere() -> str:
    """An address where nobody listens."""
    return f"127.0.0.1:{free_port()}"


Entries = Mapping[str, Callable[[], dict[str, Any]]]

REAL: Entries = {
    "redis url": lambda: {
        "BACKEND": "django_broadcaster.backends.RedisStreamBackend",
        "OPTIONS": {"url": f"redis://shop:{IN_URL}@{place_of(redis_server.shared_url())}/0"},
    },
    "redis password": lambda: {
        "BACKEND": "django_broadcaster.backends.RedisStreamBackend",
        "OPTIONS": {"url": redis_server.shared_url(), "password": SECRET},
    },
    "rabbitmq": lambda: {
        "BACKEND": "django_broadcaster.backends.RabbitMQBackend",
        "OPTIONS": {"url": f"amqp://guest:{IN_URL}@{place_of(rabbitmq_server.shared_url())}/"},
    },
    "nats": lambda: {
        "BACKEND": "django_broadcaster.backends.NATSBackend",
        "OPTIONS": {
            "servers": f"nats://shop:{IN_URL}@{place_of(nats_server.shared_url())}",
            "stream": "no-such-stream",
        },
    },
    "nats away": lambda: {
        "BACKEND": "django_broadcaster.backends.NATSBackend",
        "OPTIONS": {"servers": f"nats://{IN_URL}@{nowhere()}", "token": SECRET, "timeout": 0.5},
    },
    "mqtt": lambda: {
        "BACKEND": "django_broadcaster.backends.MQTTBackend",
        "OPTIONS": {
            **dict(zip(("host", "port"), mosquitto_server.shared_address(), strict=True)),
            "username": "shop",
            "password": SECRET,
            "topic": "tests/redaction",
        },
    },
    "kafka": lambda: {
        "BACKEND": "django_broadcaster.backends.KafkaBackend",
        "OPTIONS": {
            "bootstrap_servers": nowhere(),
            "topic": "t",
            "timeout": 1,
            "config": {
                "security.protocol": "SASL_PLAINTEXT",
                "sasl.mechanism": "PLAIN",
                "sasl.username": "shop",
                "sasl.password": SECRET,
            },
        },
    },
    "schema registry": lambda: {
        "BACKEND": "django_broadcaster.backends.KafkaBackend",
        "OPTIONS": {
            "bootstrap_servers": kafka_server.shared_servers(),
            "topic": "tests-redaction",
            "schema_registry": {
                "url": f"http://shop:{IN_URL}@{nowhere()}",
                "schemas": {"order.placed": '"string"'},
            },
        },
    },
    "sqs": lambda: {
        "BACKEND": "django_broadcaster.backends.SQSBackend",
        "OPTIONS": {
            "queue_url": f"http://{nowhere()}/1/q",
            "timeout": 1,
            "client": {
                "region_name": "eu-west-1",
                "aws_access_key_id": "AK",
                "aws_secret_access_key": SECRET,
            },
        },
    },
    "webhook": lambda: {
        "BACKEND": "django_broadcaster.backends.WebhookBackend",
        "OPTIONS": {
            "url": f"http://{nowhere()}/hook",
            "allow_private": True,
            "headers": {"Authorization": f"Bearer {SECRET}"},
        },
    },
}


class TellingBackend(MessageBackend):
    """Quotes its password wherever it can, as clients do that were not written with care."""

    def __init__(self, *, password: str, where: str, kind: str, **options: Any) -> None:
        super().__init__(**options)
        self.password, self.where, self.kind = password, where, kind
        self._tell("init")

    def open(self) -> None:
        """Tell, if it is to be here."""
        self._tell("open")

    def send(self, message: Message) -> None:
        """Tell, if it is to be here."""
        self._tell("publish")

    def _tell(self, where: str) -> None:
        if where != self.where:
            return
        try:
            raise OSError(f"can't log in with {self.password!r}")
        except OSError as error:
            text = f"tried redis://shop:{quote(self.password, safe='')}@host: {error}"
            raise KINDS[self.kind](text) from error


KINDS: Mapping[str, type[Exception]] = {
    "transient": TransientError,
    "rejected": Rejected,
    "unavailable": BackendUnavailable,
    "unforeseen": ValueError,
    "settings": BackendConfigurationError,
}

TELLING: Entries = {
    f"{where} {kind}": lambda where=where, kind=kind: {  # type: ignore[misc]
        "BACKEND": f"{MINE}TellingBackend",
        "OPTIONS": {"password": SECRET, "where": where, "kind": kind},
    }
    for where, kind in (
        *(("init", kind) for kind in ("unforeseen", "settings")),
        *(("open", kind) for kind in ("unavailable", "unforeseen", "settings")),
        *(("publish", kind) for kind in KINDS),
    )
}


def shows(text: str) -> bool:
    """Whether a text shows the secret, however it is written."""
    return any(each in text for each in (SECRET, IN_URL, repr(SECRET)[1:-1], SECRET.split("-")[1]))


def test_a_text_that_shows_the_secret_is_seen() -> None:
    """The tests here can fail."""
    assert all(map(shows, (f"a{SECRET}b", f"redis://:{IN_URL}@host", SECRET.encode().decode())))
    assert not shows("p@ss is a word")


@pytest.mark.parametrize("name", [*REAL, *TELLING])
def test_a_secret_is_nowhere(
    name: str,
    routed_default: str,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    admin: Client,
) -> None:
    """Not in the log, the row, the history, signals, checks, errors, spans, admin or commands."""
    settings.OUTBOX_PUBLISHERS = {"default": {**REAL, **TELLING}[name]()}
    seen: list[str] = []

    def listen(*, error: Exception, **_: Any) -> None:
        seen.append("".join(traceback.format_exception(error)))

    event_retried.connect(listen)
    event_failed.connect(listen)
    caplog.set_level(logging.DEBUG)
    seen.append(str(run_checks()))
    event_id = write_row()
    with instrumented() as telemetry:
        deliver(seen)
        seen += [span.to_json() for span in telemetry.spans()]
    event_retried.disconnect(listen)
    event_failed.disconnect(listen)
    seen += OutboxEvent.objects.values_list("last_error", flat=True)
    seen += OutboxAttempt.objects.values_list("error", flat=True)
    seen.append(admin.get(f"/admin/django_broadcaster/outboxevent/{event_id}/change/").text)
    output = StringIO()
    call_command("outbox_inspect", event_id, stdout=output)
    seen += [output.getvalue(), "\n".join(ours(caplog))]
    assert [text for text in seen if shows(text)] == []
    assert any(seen)


def write_row() -> int:
    """Put an event into the outbox, also for a backend that can't be made."""
    row = OutboxEvent(
        event_id="1", source="/s", event_type="a", partition=1, publisher_backend="default"
    )
    insert(row)
    return int(row.pk)


def deliver(seen: list[str]) -> None:
    """Deliver in this process and as a relay does; keep what is raised."""
    for attempt in (publisher.process_pending_events, relay):
        try:
            attempt()
        except Exception as error:
            seen.append("".join(traceback.format_exception(error)))


def relay() -> None:
    """Let a relay take a few turns."""
    with working("default", max_iterations=2) as running:
        running.end()


def ours(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the package has logged, with tracebacks, as a file would have it."""
    formatter = logging.Formatter()
    records = [each for each in caplog.records if each.name.startswith("django_broadcaster")]
    return [formatter.format(record) for record in records]


@pytest.fixture
def routed_default(committing: None, settings: Settings) -> str:
    """Everything goes to the first database."""
    settings.DATABASE_ROUTERS = [OneDatabase("default")]
    return "default"


@pytest.fixture
def admin(routed_default: str) -> Iterator[Client]:
    """A client that is logged in as a superuser."""
    user = get_user_model().objects.create_superuser("redaction", password="x")
    client = Client()
    client.force_login(user)
    yield client
    user.delete()


# --- What is a secret ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("password", "PASSWORD", "sentinel_password", "sasl.password", "ssl.key.password"),
        *("ssl.key.pem", "aws_secret_access_key", "aws_session_token", "token", "secrets"),
        *("nkeys_seed_str", "Authorization", "X-Api-Key", "key", "sasl.oauthbearer.client.secret"),
    ],
)
def test_names_of_secrets(settings: Settings, name: str) -> None:
    """The value of an option of such a name is masked, at any depth, and nothing else is."""
    settings.OUTBOX_PUBLISHERS = {"a": {"OPTIONS": {"client": [{name: "s3cr3t-value"}]}}}
    assert redaction.masked("refused: s3cr3t-value of shop") == "refused: *** of shop"


@pytest.mark.parametrize(
    "name",
    [
        *("routing_key", "binding_key", "user", "username", "ssl.key.location", "stream_name"),
        *("secrets_for", "user_credentials", "nkeys_seed", "aws_access_key_id", "topic"),
    ],
)
def test_names_of_what_is_no_secret(settings: Settings, name: str) -> None:
    """Where to send, and where a file is, may be shown: an error is of little use without it."""
    settings.OUTBOX_PUBLISHERS = {"a": {"OPTIONS": {name: "shop.orders"}}}
    assert redaction.masked("no shop.orders here") == "no shop.orders here"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://user:pass@host/0", "redis://***@host/0"),
        ("amqp://u:p@ss@host/orders", "amqp://***@host/orders"),
        ("at amqps://:p%40ss@host: refused", "at amqps://***@host: refused"),
        ("see https://example.com/@me and a@b.c", "see https://example.com/@me and a@b.c"),
    ],
)
def test_a_login_in_any_url_is_masked(settings: Settings, text: str, shown: str) -> None:
    """Also in one that stands in no setting: an event's, or one from the environment."""
    settings.OUTBOX_PUBLISHERS = {}
    assert redaction.masked(text) == shown


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        (
            "shop-events-default",
            "Backend 'default' is unavailable: shop is closed; its events wait.",
        ),
        ("events", "Backend 'default' is unavailable"),
        ("default", "no queue 'default' for events"),
        ("Bearer orders-and-events", "the bearer of orders and events"),
    ],
)
def test_ordinary_words_are_not_masked(settings: Settings, secret: str, text: str) -> None:
    """A password that is made of words, or is one, leaves those words in every other text."""
    settings.OUTBOX_PUBLISHERS = {"default": {"OPTIONS": {"password": secret}}}
    assert redaction.masked(text) == text


@pytest.mark.parametrize(
    ("secret", "text", "shown"),
    [
        ("shop-events-default", "login shop-events-default", "login ***"),
        ("shop events/default", "login shop%20events%2Fdefault", "login ***"),
        ("shop events/default", "login shop+events%2Fdefault", "login ***"),
        ('shop"events', 'login "shop\\"events"', 'login "***"'),
        ("Bearer orders-and-events", "token 'orders-and-events'", "token '***'"),
        ("events", "refused: password='events'", "refused: password='***'"),
        ("events", "{'sasl.password': 'events'}", "{'sasl.password': '***'}"),
        ("events", "https://host/x?token=events&y=1", "https://host/x?token=***&y=1"),
        ("events", "at host shop:events@host", "at host shop:***@host"),
    ],
)
def test_a_secret_is_masked_as_a_whole(
    settings: Settings, secret: str, text: str, shown: str
) -> None:
    """In whatever form it is written; a short one in a URL and beside the name of an option."""
    settings.OUTBOX_PUBLISHERS = {"default": {"OPTIONS": {"password": secret}}}
    assert redaction.masked(text) == shown


@given(secret=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8))
def test_whatever_the_secret_of_the_settings_it_is_masked(secret: str) -> None:
    """A password of eight characters or more is found in any form, inside of other words too."""
    spelled = (secret, repr(secret), quote(secret, safe=""), f"x{secret}y", f"u:{secret}@h")
    with override_settings(OUTBOX_PUBLISHERS={"default": {"OPTIONS": {"password": secret}}}):
        assert secret not in redaction.masked(" ".join(spelled)).replace(redaction.MASK, "")


def test_keys_are_secrets(settings: Settings) -> None:
    """The keys of OUTBOX_ENCRYPTION_KEYS are masked as well."""
    settings.OUTBOX_ENCRYPTION_KEYS = ["q1Zc0ffee0000000000000000000000000000000000="]
    assert "ffee" not in redaction.masked(f"bad key {settings.OUTBOX_ENCRYPTION_KEYS[0]}")


@given(secret=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8))
def test_whatever_the_secret_it_is_found(secret: str) -> None:
    """Any password, as it is, in quotes, in a URL, and inside of other words."""
    options = {"password": secret}
    spelled = (secret, repr(secret), quote(secret, safe=""), f"x{secret}y", f"u:{secret}@h")
    text = " ".join(spelled)
    shown = redaction.without(text, redaction.spellings(options))
    assert secret not in shown


def test_every_logger_is_masked() -> None:
    """A logger that a module makes is one of those that have the filter."""
    pattern = re.compile(r'getLogger\("([^"]+)"\)')
    named = {name for path in PACKAGE.rglob("*.py") for name in pattern.findall(path.read_text())}
    assert named <= set(redaction.LOGGERS)
    for name in redaction.LOGGERS:
        filters = logging.getLogger(name).filters
        assert [type(each) for each in filters].count(redaction.SecretsFilter) == 1


def test_a_record_that_is_broken_passes(caplog: pytest.LogCaptureFixture) -> None:
    """What logging itself says about a wrong record is not hidden by an error of the filter."""
    record = logging.LogRecord("django_broadcaster", logging.INFO, "", 1, "%d", ("x",), None)
    assert redaction.SecretsFilter().filter(record) is True


def test_a_cause_without_a_text_is_no_trouble() -> None:
    """Somebody else's exception that can't say what it is reveals nothing, and breaks nothing."""

    class SpeechlessError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    error = TransientError("can't connect")
    error.__cause__ = SpeechlessError()
    redaction.mask_error(error)
    assert isinstance(error.__cause__, SpeechlessError)


def test_an_error_without_secrets_keeps_its_cause() -> None:
    """What is harmless stays whole: a traceback is worth having."""
    cause = OSError("refused")
    error = TransientError("can't connect")
    error.__cause__ = cause
    redaction.mask_error(error)
    assert error.__cause__ is cause
    assert str(error) == "can't connect"
