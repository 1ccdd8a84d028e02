"""Writes docs/explanation/broker-tests.md, the page of each broker's tests, from the tests.

    python -m tests.support.broker_page

The faults are those of `BackendFaultContract`. A test besides the contract is on the page by the
mark `shows`, whose argument is a fault or a few words.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import django
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "explanation" / "broker-tests.md"

HEAD = """\
# Tests of each broker

Each backend runs the same [test suites](../reference/testing.md). An independent client reads the
broker back. This page lists each fault of a broker, what an event becomes, and the tests:

- *unavailable*: everything waits, no retry is spent, and delivery goes on by itself.
- *transient*: the event is retried by its policy. Later events of its key wait.
- *rejected*: the event becomes a dead letter at once.

After each fault, the tests read the broker back. Every acknowledged event is there, nothing is
lost, and each key is in order. `python -m tests.support.broker_page` writes this page.

All backends share these tests:

- the formats: [`test_official_sdk_reads_what_we_write`](../../tests/backends/test_bindings.py),
  [`test_binary_mode_names_and_writes_every_attribute`](../../tests/backends/test_bindings.py),
  [`test_no_data_is_not_an_empty_body`](../../tests/backends/test_bindings.py),
  [`test_header_text_is_percent_encoded`](../../tests/backends/test_bindings.py)
- the readers, on real brokers:
  [`test_readers_find_what_was_published`](../../tests/backends/test_wire.py),
  [`test_data_that_is_an_event_does_not_replace_the_event`](../../tests/backends/test_wire.py),
  [`test_bytes_without_a_content_type_stay_without_one`](../../tests/backends/test_wire.py),
  [`test_what_the_sdk_writes_is_read`](../../tests/events/test_messages.py)
- the templates: [`test_template_is_filled_in`](../../tests/backends/test_templates.py),
  [`test_wrong_template_is_refused`](../../tests/backends/test_templates.py)
- the extension `expirytime`:
  [`test_an_expired_event_is_not_sent_and_marked_so`](../../tests/relay/test_expiry.py)
"""


@dataclass(frozen=True)
class Broker:
    """A section of the page: its title, the servers of the tests, and their modules."""

    title: str
    servers: str
    modules: tuple[str, ...]


def _modules(*names: str) -> tuple[str, ...]:
    return tuple(f"tests.backends.{name}" for name in names)


AWS = Broker(
    "SQS and SNS",
    "moto's server. For answers that it does not give, a proxy gives them.",
    _modules("test_aws", "test_aws_faults"),
)
BROKERS: Mapping[str, Broker] = {
    "CeleryBackend": Broker(
        "Celery",
        "Redis and RabbitMQ as the app's broker, and a Celery worker in its own process.",
        _modules("test_celery", "test_celery_faults"),
    ),
    "KafkaBackend": Broker(
        "Kafka",
        "Apache Kafka: one broker, and three with replicas. For answers that it does not give, "
        "librdkafka's mock broker.",
        _modules("test_kafka", "test_kafka_clients", "test_kafka_faults", "test_kafka_cluster"),
    ),
    "MQTTBackend": Broker(
        "MQTT 5",
        "`mosquitto`. For answers that it does not give, a scripted server.",
        _modules("test_mqtt", "test_mqtt_faults"),
    ),
    "NATSBackend": Broker(
        "NATS JetStream",
        "`nats-server`.",
        _modules("test_nats", "test_nats_faults", "test_nats_subjects"),
    ),
    "RabbitMQBackend": Broker(
        "RabbitMQ", "`rabbitmq-server`.", _modules("test_rabbitmq", "test_rabbitmq_faults")
    ),
    "RedisStreamBackend": Broker(
        "Redis Streams",
        "`redis-server`: one, behind sentinels, and as a cluster.",
        _modules(
            *("test_redis", "test_redis_formats", "test_redis_faults", "test_redis_tls"),
            *("test_redis_sentinel", "test_redis_cluster"),
        ),
    ),
    "SNSBackend": AWS,
    "SQSBackend": AWS,
    "WebhookBackend": Broker(
        "Webhooks",
        "An HTTP server of the tests that fails on demand.",
        _modules(
            *(f"webhook.test_{name}" for name in ("contract", "answers", "handshake")),
            *(f"webhook.test_{name}" for name in ("signatures", "addresses", "endpoints")),
            "webhook.test_faults",
        ),
    ),
}
"""The backends with a server, by name."""

SERVERLESS: Mapping[str, str] = {
    "ConsoleBackend": "prints events",
    "DebeziumBackend": "writes into the outbox's own database, from which Kafka Connect takes the "
    "events: "
    + ", ".join(
        f"[`{name}`](../../tests/debezium/{module}.py)"
        for module, name in (
            ("test_publishing", "test_an_event_is_in_the_wal_if_its_transaction_commits"),
            ("test_publishing", "test_a_missing_slot_refuses_events_so_that_none_is_lost"),
            ("test_publishing", "test_events_do_not_overtake_those_of_their_key_that_wait"),
            ("test_records", "test_records_are_those_of_the_kafka_backend"),
            (
                "test_move",
                "test_a_move_to_kafka_connect_and_back_loses_doubles_and_reorders_nothing",
            ),
        )
    ),
    "DummyBackend": "does nothing",
    "LocMemBackend": "keeps events in a list",
    "LocalBackend": "runs handlers in the relay's process",
    "TasksBackend": "calls the queue of the project's tasks, which has the limits and credentials. "
    "An error of `enqueue` is unavailable, or the event's error where the queue says so: "
    + ", ".join(
        f"[`{name}`](../../tests/backends/test_tasks.py)"
        for name in (
            *("TestTasksBackend", "test_queue_that_is_away_is_unavailable"),
            *("test_queue_that_is_not_there_is_rejected", "test_tasks_that_do_not_fit_are_named"),
            *("test_end_to_end_from_a_transaction", "test_real_queue_and_worker"),
        )
    ),
}
"""The backends without a server, with what they do instead."""


def page() -> str:
    """Return the page."""
    sections = [HEAD]
    for broker in sorted(set(BROKERS.values()), key=lambda each: each.title):
        modules = [import_module(name) for name in broker.modules]
        sections += [f"## {broker.title}\n", f"{broker.servers}\n"]
        sections += ["| fault | what becomes of the event | tests |\n|---|---|---|"]
        sections += [
            *_faults(modules),
            "",
            "| what else | tests |\n|---|---|",
            *_others(modules),
            "",
        ]
    sections += ["## Backends without a server\n"]
    sections += [f"- `{name}` {why}." for name, why in SERVERLESS.items()]
    return "\n".join(sections) + "\n"


def classes_of(module: ModuleType, contract: type) -> list[Any]:
    """Return the test classes of a module that run a contract."""
    return [
        each
        for name, each in vars(module).items()
        if name.startswith("Test")
        and issubclass(each, contract)
        and each.__module__ == module.__name__
    ]


def _faults(modules: list[ModuleType]) -> Iterator[str]:
    from django_broadcaster.testing import BackendFaultContract, Fault

    classes = [each for module in modules for each in classes_of(module, BackendFaultContract)]
    for fault in Fault:
        outcomes, tests = [], []
        for each in classes:
            if fault in each.excluded:
                outcomes.append(_linked(f"{each.excluded[fault]}", modules))
                continue
            outcomes.append(_outcome(each, fault))
            cases = ", ".join(each.cases.get(fault, ()))
            tests.append(f"{_link(each)}{cases and f' ({cases})'}")
        tests += [_link(test) for test in _shown(modules, fault)]
        yield f"| {fault} | {'; '.join(dict.fromkeys(outcomes))} | {', '.join(tests)} |"


def _outcome(contract: Any, fault: Any) -> str:
    from django_broadcaster.exceptions import TransientError
    from django_broadcaster.testing import Fault

    errors = {
        Fault.TOO_LARGE: "rejected",
        Fault.MISSING_FOR_ONE: _word(contract.missing_for_one_error),
        Fault.FULL: _word(contract.full_error),
    }
    may_spend = fault in (Fault.RESTART, Fault.CUT) and TransientError in contract.outage_errors
    return errors.get(fault, "unavailable") + (", or one retry" if may_spend else "")


def _word(error: type) -> str:
    return {"BackendUnavailable": "unavailable", "TransientError": "transient"}.get(
        error.__name__, error.__name__.lower()
    )


def _others(modules: list[ModuleType]) -> Iterator[str]:
    from django_broadcaster.testing import BackendContract, Fault

    contracts = [each for module in modules for each in classes_of(module, BackendContract)]
    yield f"| contract | {', '.join(map(_link, contracts))} |"
    marks = [mark.args[0] for test in _tests(modules) for mark in _marks(test)]
    for what in dict.fromkeys(each for each in marks if not isinstance(each, Fault)):
        yield f"| {what} | {', '.join(map(_link, _shown(modules, what)))} |"


def _tests(modules: Iterable[ModuleType]) -> list[Any]:
    return [
        each
        for module in modules
        for name, each in vars(module).items()
        if name.startswith("test_") and each.__module__ == module.__name__
    ]


def _marks(test: Any) -> list[pytest.Mark]:
    return [mark for mark in getattr(test, "pytestmark", []) if mark.name == "shows"]


def _shown(modules: Iterable[ModuleType], what: object) -> list[Any]:
    return [test for test in _tests(modules) if what in [mark.args[0] for mark in _marks(test)]]


def _link(test: Any) -> str:
    return f"[`{test.__name__}`](../../{test.__module__.replace('.', '/')}.py)"


def _linked(text: str, modules: list[ModuleType]) -> str:
    """Return a text with a link at each name of a test."""
    tests = {f"`{test.__name__}`": _link(test) for test in _tests(modules)}
    return re.sub("`test_.*?`", lambda name: tests[name[0]], text)


if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    django.setup()
    PAGE.write_text(page())
