"""A schema registry, Apicurio Registry, which a test process starts once it needs one."""

from __future__ import annotations

import atexit
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.support.redis_server import free_port, missing
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until
from tools.kafka_node import is_installed
from tools.schema_registry import PATH, Registry

START_SECONDS = 180.0


ORDER: Final[dict[str, Any]] = {
    "type": "record",
    "name": "OrderPlaced",
    "namespace": "shop",
    "fields": [
        {"name": "order_id", "type": "long"},
        {
            "name": "total",
            "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
        },
        {"name": "placed", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "note", "type": ["null", "string"], "default": None},
    ],
}
"""The schema of an order."""


@cache
def shared_registry() -> Registry:
    """A registry that runs until the process ends: use topics and subjects of your own."""
    if not is_installed():
        missing("Java and Maven, for a schema registry")
    registry = Registry(free_port())
    log = Path(mkdtemp()) / "registry.log"
    with log.open("ab") as output:
        registry.start(output)
    atexit.register(registry.kill)
    wait_until(partial(_answers, registry, log), START_SECONDS, "the schema registry answers")
    return registry


def through(proxy: TcpProxy) -> str:
    """Return the address of the registry that is behind a proxy."""
    return f"http://127.0.0.1:{proxy.port}{PATH}"


def _answers(registry: Registry, log: Path) -> bool:
    assert registry.process is not None
    if registry.process.poll() is not None:
        pytest.fail(f"the schema registry has ended: {log.read_text()[-2000:]}")
    try:
        with urlopen(f"{registry.url}/subjects", timeout=5):  # noqa: S310  # http alone
            return True
    except (URLError, OSError):
        return False
