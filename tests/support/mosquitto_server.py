"""Mosquitto servers, the shared one and private ones, and a subscriber that reads them back."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from paho.mqtt import client as paho
from paho.mqtt import publish
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.support.redis_server import free_port, missing
from tests.support.waiting import wait_until
from tools import services
from tools.handshakes import NoAnswer
from tools.launch import SEARCH_PATH
from tools.servers import SERVICES, probe

START_SECONDS = 20.0
READ_SECONDS = 20.0

Address = tuple[str, int]


@cache
def shared_address() -> Address:
    """Where the server is that all tests share: use topics that nobody else does."""
    url = services.address("mqtt")
    try:
        probe(SERVICES["mqtt"], url)
    except NoAnswer as error:
        missing(f"an MQTT server, at {url or 'the address in BROADCASTER_MQTT_URL'}: {error}")
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 1883


@dataclass(frozen=True)
class Arrived:
    """One message as the subscriber got it."""

    topic: str
    payload: bytes
    content_type: str | None
    headers: dict[str, str]
    retain: bool
    qos: int

    @property
    def event(self) -> Any:
        """The members of the JSON format, in structured mode."""
        return json.loads(self.payload)


class Subscriber:
    """A client of paho-mqtt with a thread of its own, which collects what comes under a topic.

    Its session outlives its connection: what the server takes while it is away, it gets later.
    """

    def __init__(self, address: Address, topic: str, **login: str) -> None:
        self.arrived: list[Arrived] = []
        self._address = address
        self._topic = topic
        self._subscribed = threading.Event()
        self._markers: set[bytes] = set()
        self._name = f"reader-{uuid4().hex}"
        self._login = login
        self.connect()

    def connect(self) -> None:
        """Connect to the session, and wait until it is subscribed."""
        self._subscribed.clear()
        # A new client each time: the library leaves sockets open when one is used again.
        self._client = client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, self._name, protocol=paho.MQTTv5
        )
        if self._login:
            client.username_pw_set(**self._login)
        client.reconnect_delay_set(1, 1)
        client.on_connect = self._connected
        client.on_subscribe = lambda *_: self._subscribed.set()
        client.on_message = self._received
        kept = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        kept.SessionExpiryInterval = 3600
        client.connect(*self._address, clean_start=False, properties=kept)
        client.loop_start()
        assert self._subscribed.wait(READ_SECONDS), "the subscriber is not subscribed"

    def disconnect(self) -> None:
        """Leave the session behind."""
        self._client.disconnect()
        self._client.loop_stop()

    def read(self) -> list[Arrived]:
        """All that has arrived since the beginning; a message of our own is waited for first.

        The server hands messages on in the order in which it took them.
        """
        marker = uuid4().bytes
        self._client.publish(f"{self._topic}/marker", marker, qos=1)
        wait_until(lambda: marker in self._markers, READ_SECONDS, "the subscriber's own message")
        return list(self.arrived)

    def close(self) -> None:
        """End the session."""
        ended = Properties(PacketTypes.DISCONNECT)  # type: ignore[no-untyped-call]
        ended.SessionExpiryInterval = 0
        self._client.disconnect(properties=ended)
        self._client.loop_stop()

    def _connected(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _: Any) -> None:
        if not reason.is_failure:
            client.subscribe(f"{self._topic}/#", qos=1)

    def _received(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        if message.topic == f"{self._topic}/marker":
            self._markers.add(message.payload)
            return
        properties = message.properties
        self.arrived.append(
            Arrived(
                topic=message.topic.removeprefix(f"{self._topic}/"),
                payload=message.payload,
                content_type=getattr(properties, "ContentType", None),
                headers=dict(getattr(properties, "UserProperty", [])),
                retain=message.retain,
                qos=message.qos,
            )
        )


def forget_retained(topic: str) -> None:
    """Make the shared server forget what it retains for a topic."""
    host, port = shared_address()
    publish.single(topic, b"", 1, True, hostname=host, port=port, protocol=paho.MQTTv5)


def forget_session(address: Address, client_id: str) -> None:
    """Make a server forget a session, as if it had expired."""
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5)
    client.connect(*address, clean_start=True)
    client.loop_start()
    wait_until(client.is_connected, START_SECONDS, "a new session")
    client.disconnect()
    client.loop_stop()


@contextmanager
def subscriber(address: Address, topic: str, **login: str) -> Iterator[Subscriber]:
    """A subscriber to all that is under a topic, for the time of the block."""
    reader = Subscriber(address, topic, **login)
    try:
        yield reader
    finally:
        reader.close()


class MosquittoServer:
    """A mosquitto of our own, which takes anybody and keeps what it holds when it is stopped.

    `config` are lines of mosquitto.conf, `{port}` and `{folder}` filled in. It keeps its port when
    it is restarted.
    """

    def __init__(self, folder: Path, config: str = "", port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.configure(config)

    def configure(self, config: str) -> None:
        """Give it other lines; they count from its next start, or its next `reload`."""
        usual = f"listener {self.port} 127.0.0.1\nallow_anonymous true\n"
        if "listener" in config:
            usual = ""
        account = "user root\n" if os.geteuid() == 0 else ""
        lines = config.format(port=self.port, folder=self.folder)
        (self.folder / "mosquitto.conf").write_text(
            f"{account}{usual}persistence true\npersistence_location {self.folder}/\n"
            f"max_queued_messages 0\nset_tcp_nodelay true\n{lines}\n"
        )

    @property
    def address(self) -> Address:
        """Where it listens."""
        return "127.0.0.1", self.port

    def start(self) -> None:
        """Start it, and wait until it answers."""
        program = shutil.which("mosquitto", path=SEARCH_PATH) or missing("the program mosquitto")
        log = self.folder / "mosquitto.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [program, "-c", str(self.folder / "mosquitto.conf")], stdout=output, stderr=output
            )
        try:
            wait_until(self._is_up, START_SECONDS, "mosquitto is up")
        except BaseException:
            self.kill()
            raise

    def end(self) -> None:
        """End it in good order: it writes down what it holds."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL it, as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Let it hang (SIGSTOP): the system accepts connections for it, and nothing is answered."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        self._send(signal.SIGCONT)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it hang for the time of the block."""
        self.stop()
        try:
            yield
        finally:
            self.resume()

    def restart(self, config: str) -> None:
        """End it in good order, and start it with other lines."""
        self.end()
        self.configure(config)
        self.start()

    def _send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(number)
            process.wait(START_SECONDS)

    def _is_up(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail(f"mosquitto has ended: {(self.folder / 'mosquitto.log').read_text()}")
        with contextlib.suppress(OSError), socket.create_connection(self.address, 1):
            return True
        return False


@contextmanager
def mosquitto_server(folder: Path, config: str = "", **options: Any) -> Iterator[MosquittoServer]:
    """A running server for the time of the block."""
    server = MosquittoServer(folder, config, **options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def members(message: Arrived) -> Mapping[str, Any]:
    """Return the content of a message of binary mode, by the words of the specification."""
    found: dict[str, Any] = dict(message.headers)
    if message.content_type is not None:
        found["datacontenttype"] = message.content_type
        found["data"] = message.payload
    return found
