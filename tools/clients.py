"""Names the brokers' clients, for `make test-latest`.

python tools/clients.py              # the requirements of pip, without upper bounds
python tools/clients.py --versions   # what is installed
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
BROKERS = ("aws", "celery", "kafka", "mqtt", "nats", "rabbitmq", "redis", "webhook")
"""The extras that have a broker's client."""


def requirements() -> dict[str, list[str]]:
    """Return the requirements of each broker's extra."""
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    return {broker: extras[broker] for broker in BROKERS}


def clients() -> Iterator[str]:
    """Yield the clients without their bounds, as `nats-py[nkeys]`."""
    for each in requirements().values():
        for requirement in each:
            yield re.split("[<>=!~;]", requirement)[0].strip()


def main() -> None:
    """Print the names or the versions."""
    for client in dict.fromkeys(clients()):
        name = client.partition("[")[0]
        print(f"{name} {version(name)}" if "--versions" in sys.argv else client)


if __name__ == "__main__":
    main()
