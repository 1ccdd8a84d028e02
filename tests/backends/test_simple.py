"""The backends without a broker: what the contract does not say of them."""

from __future__ import annotations

import io

import django
import pytest
from django.core.exceptions import ImproperlyConfigured

from django_broadcaster.backends import ConsoleBackend, LocMemBackend, TasksBackend
from django_broadcaster.backends import locmem as locmem_module
from django_broadcaster.exceptions import BackendUnavailable
from django_broadcaster.testing import make_message


def test_console_writes_a_line_and_the_event(capsys: pytest.CaptureFixture[str]) -> None:
    """The line names alias, type, id, source and key; the JSON below it is indented."""
    message = make_message(
        id="1",
        event_type="order.placed",
        source="/shop",
        time=None,
        data="ä",
        partition_key="order-1",
    )
    ConsoleBackend(alias="default").send(message)
    assert capsys.readouterr().out.splitlines() == [
        "[default] order.placed 1 from /shop key order-1",
        "{",
        '  "specversion": "1.0",',
        '  "id": "1",',
        '  "source": "/shop",',
        '  "type": "order.placed",',
        '  "datacontenttype": "application/json",',
        '  "partitionkey": "order-1",',
        '  "data": "ä"',
        "}",
    ]


def test_console_escapes_what_the_terminal_cannot_show() -> None:
    """An event does not fail because a terminal has another alphabet."""
    raw = io.BytesIO()
    terminal = io.TextIOWrapper(raw, encoding="ascii")
    ConsoleBackend(alias="default", stream=terminal).send(make_message(data="ä🦓"))
    assert b'"data": "\\xe4\\U0001f993"' in raw.getvalue()


def test_closed_console_is_unavailable() -> None:
    """A stream that is gone costs no event."""
    stream = io.StringIO()
    stream.close()
    with pytest.raises(BackendUnavailable):
        ConsoleBackend(alias="default", stream=stream).send(make_message())


def test_locmem_keeps_one_list_for_each_alias() -> None:
    """Two backends of an alias share a list, that of another alias is apart, and clear empties."""
    locmem_module.clear()
    first, second = make_message(), make_message()
    LocMemBackend(alias="a").send(first)
    LocMemBackend(alias="a").send(second)
    assert locmem_module.outbox("a") == LocMemBackend(alias="a").messages == [first, second]
    assert locmem_module.outbox("b") == []
    locmem_module.clear()
    assert locmem_module.outbox("a") == []


@pytest.mark.skipif(django.VERSION >= (6, 0), reason="Django has tasks from 6.0 on")
def test_django_without_tasks_is_named() -> None:
    """Before Django 6.0 a TasksBackend is an error of the settings that says what to do."""
    with pytest.raises(ImproperlyConfigured, match=r"'jobs'.*from 6\.0 on.*Use CeleryBackend or"):
        TasksBackend(alias="jobs")
