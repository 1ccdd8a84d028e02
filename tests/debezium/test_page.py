"""The commands of the page about the move, in their order, against real servers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from django_broadcaster.backends.handler import backends
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from tests.debezium.conftest import BACKEND, SLOT, deliver
from tests.support.docs_runner import ROOT, blocks_of
from tests.support.kafka_connect import ConnectServer, kafka_connect
from tests.support.kafka_server import make_topic, records, shared_servers
from tests.support.own_servers import OwnDatabase
from tests.support.workers import MANAGE, environment

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "how-to" / "backends" / "debezium.md"
WORDS = {
    "python manage.py": f"{sys.executable} {MANAGE}",
    "2026-01-31T08:00": "2020-01-01",
    "database.hostname=postgres": "database.hostname=127.0.0.1",
}


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[ConnectServer]:
    """A worker of Kafka Connect, beside the shared broker."""
    with kafka_connect(tmp_path, shared_servers()) as server:
        yield server


@pytest.mark.usefixtures("committing")
def test_every_command_of_the_page_works(
    postgres: OwnDatabase, connect: ConnectServer, settings: Settings
) -> None:
    """They move a project to Kafka Connect, recover a slot and move back; Kafka has all events."""
    topic = make_topic(shared_servers())
    settings.OUTBOX_PUBLISHERS = {"default": {"BACKEND": BACKEND, "OPTIONS": {"topic": topic}}}
    backends.reset()
    place = f"postgres://postgres@127.0.0.1:{postgres.instance.port}/outbox"
    words = {**WORDS, "http://connect:8083": connect.url, '"$DATABASE"': place}
    env = environment("own", {"OUTBOX_PUBLISHERS": settings.OUTBOX_PUBLISHERS})
    ran = []
    for block in blocks_of(PAGE):
        for line in re.findall(r"^\s*\$ (.+)$", block.text, re.MULTILINE):
            command = line
            for shown, real in words.items():
                command = command.replace(shown, real)
            done = subprocess.run(
                ["bash", "-eo", "pipefail", "-c", command],
                env={**env, "PGOPTIONS": "-c client_min_messages=warning"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            ran.append(line)
            if "--url" in line and "--remove" not in line:
                connect.wait_until_running(SLOT)
                publisher.publish_event("order.placed", "/shop", using="own")
                deliver()
    assert len(ran) == 15
    ids = [json.loads(each.value() or b"")["id"] for each in records(shared_servers(), topic)]
    first, second = OutboxEvent.objects.using("own").order_by("id")
    assert sorted(ids) == sorted(each.event_id for each in (first, first, second))
    assert first.status == second.status == "published"
    assert postgres.execute("SELECT slot_name FROM pg_replication_slots") == []
    postgres.execute("TRUNCATE django_broadcaster_outboxevent")
