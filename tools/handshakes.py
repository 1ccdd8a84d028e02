"""Logs in to a server without its client library, to see that it is there and lets us in.

Each function takes an open connection and the address, logs in as a client would, and returns the
server's version. What is no such server, or refuses, raises NoAnswer.
"""

from __future__ import annotations

import json
import re
import struct
from io import BufferedRWPair
from urllib.parse import SplitResult, unquote

Garbled = struct.error  # what was read is not of the protocol


class NoAnswer(Exception):
    """No server that one can log in to is at the address; the message says what was met."""


def _read(wire: BufferedRWPair, size: int) -> bytes:
    data = wire.read(size)
    if len(data) < size:
        raise NoAnswer("the connection was closed during the login")
    return data


def postgres(wire: BufferedRWPair, url: SplitResult) -> str:
    """Log in; a server that asks for a password passes if the address has one (not verified)."""
    user = unquote(url.username or "postgres")
    database = unquote(url.path.strip("/")) or user
    startup = struct.pack("!i", 3 << 16) + f"user\0{user}\0database\0{database}\0\0".encode()
    wire.write(struct.pack("!i", len(startup) + 4) + startup)
    wire.flush()
    version = ""
    while True:
        kind, size = struct.unpack("!ci", _read(wire, 5))
        body = _read(wire, size - 4)
        if kind == b"E":
            fields = body.decode(errors="replace").split("\0")
            raise NoAnswer(next((field[1:] for field in fields if field[:1] == "M"), "refused"))
        if kind == b"R" and body[:4] != bytes(4):
            if url.password:
                return "(password not tried)"
            raise NoAnswer("it asks for a password")
        if kind == b"S" and body.startswith(b"server_version\0"):
            version = body.split(b"\0")[1].decode().split()[0]
        if kind == b"Z":
            wire.write(b"X\0\0\0\4")
            wire.flush()
            return version


def mariadb(wire: BufferedRWPair, url: SplitResult) -> str:
    """Log in without a password; where the address has one, the greeting is enough."""

    def packet() -> tuple[int, bytes]:
        header = _read(wire, 4)
        return header[3], _read(wire, int.from_bytes(header[:3], "little"))

    def send(sequence: int, body: bytes) -> None:
        wire.write(len(body).to_bytes(3, "little") + bytes([sequence]) + body)
        wire.flush()

    def refused(body: bytes) -> NoAnswer:
        return NoAnswer(re.sub(r"^#.{5}", "", body[3:].decode(errors="replace")))

    _, greeting = packet()
    if greeting[0] == 0xFF:
        raise refused(greeting)
    if greeting[0] != 10:
        raise NoAnswer("it does not speak the MySQL protocol")
    version = greeting[1:].split(b"\0")[0].decode().removeprefix("5.5.5-")
    if url.password:
        return f"{version} (password not tried)"
    capabilities = 0x0008_8201  # long password, protocol 4.1, secure connection, plugin auth
    user = unquote(url.username or "root").encode()
    login = struct.pack("<IIB23x", capabilities, 1 << 24, 45) + user + b"\0\0"
    send(1, login + b"mysql_native_password\0")
    sequence, answer = packet()
    if answer[0] == 0xFE:  # the account uses another plugin: for them all, no password is empty
        send(sequence + 1, b"")
        _, answer = packet()
    if answer[0] != 0:
        raise refused(answer) if answer[0] == 0xFF else NoAnswer("it asks for a password")
    send(0, b"\1")
    return version


def redis(wire: BufferedRWPair, url: SplitResult) -> str:
    """Authenticate if the address says how, then ask for the version."""

    def ask(*words: str) -> bytes:
        parts = [b"$%d\r\n%b\r\n" % (len(word.encode()), word.encode()) for word in words]
        wire.write(b"*%d\r\n%b" % (len(parts), b"".join(parts)))
        wire.flush()
        answer = wire.readline().rstrip()
        if answer[:1] == b"$":
            return _read(wire, int(answer[1:]) + 2)
        if answer[:1] == b"+":
            return answer[1:]
        raise NoAnswer(answer[1:].decode(errors="replace") or "it does not speak Redis's protocol")

    if url.password:
        ask("AUTH", unquote(url.username or "default"), unquote(url.password))
    version = re.search(rb"redis_version:(\S+)", ask("INFO", "server"))
    return version[1].decode() if version else ""


def rabbitmq(wire: BufferedRWPair, url: SplitResult) -> str:
    """Log in, open the virtual host, and close the connection in good order."""

    def short(text: str) -> bytes:
        return bytes((len(text.encode()),)) + text.encode()

    def send(class_id: int, method: int, arguments: bytes) -> None:
        payload = struct.pack("!HH", class_id, method) + arguments
        wire.write(struct.pack("!BHI", 1, 0, len(payload)) + payload + b"\xce")
        wire.flush()

    def receive(class_id: int, method: int) -> bytes:
        kind, _, size = struct.unpack("!BHI", _read(wire, 7))
        if kind != 1:
            raise NoAnswer("it does not speak AMQP 0-9-1")
        payload = _read(wire, size + 1)
        if payload[:4] == struct.pack("!HH", 10, 50):
            raise NoAnswer(payload[7 : 7 + payload[6]].decode(errors="replace"))
        if payload[:4] != struct.pack("!HH", class_id, method):
            raise NoAnswer("it does not speak AMQP 0-9-1")
        return payload[4:]

    wire.write(b"AMQP\0\0\x09\x01")
    wire.flush()
    version = re.search(rb"\x07versionS\0\0\0.([\w.+-]+)", receive(10, 10))
    user, password = unquote(url.username or "guest"), unquote(url.password or "guest")
    login = f"\0{user}\0{password}".encode()
    capability = short("authentication_failure_close") + b"t\x01"  # it says why, then
    capabilities = short("capabilities") + b"F" + struct.pack("!I", len(capability)) + capability
    properties = struct.pack("!I", len(capabilities)) + capabilities
    response = struct.pack("!I", len(login)) + login
    send(10, 11, properties + short("PLAIN") + response + short("en_US"))
    send(10, 31, receive(10, 30)[:6] + b"\0\0")
    send(10, 40, short(unquote(url.path[1:]) or "/") + b"\0\0")
    receive(10, 41)
    send(10, 50, b"\0\0\0" + bytes(4))
    receive(10, 51)
    return version[1].decode() if version else ""


def nats(wire: BufferedRWPair, url: SplitResult) -> str:
    """Log in with the user and password of the address, if any; a server needs JetStream."""
    operation, _, information = wire.readline().partition(b" ")
    if operation != b"INFO":
        raise NoAnswer("it does not speak NATS' protocol")
    server = json.loads(information)
    if not server.get("jetstream"):
        raise NoAnswer("it has no JetStream")
    if server.get("tls_required"):
        return f"{server['version']} (TLS, login not tried)"
    login: dict[str, object] = {"verbose": False, "pedantic": False}
    if url.username:
        login["user"] = unquote(url.username)
        login["pass"] = unquote(url.password or "")
    wire.write(b"CONNECT %b\r\nPING\r\n" % json.dumps(login).encode())
    wire.flush()
    answer = wire.readline().decode(errors="replace").strip()
    if answer != "PONG":
        raise NoAnswer(answer.removeprefix("-ERR ").strip("'") or "it closed the connection")
    return str(server["version"])


def mqtt(wire: BufferedRWPair, url: SplitResult) -> str:
    """Log in with MQTT 5, and say goodbye; the protocol does not tell the server's version."""

    def text(value: str) -> bytes:
        return struct.pack("!H", len(value.encode())) + value.encode()

    login = [unquote(word) for word in (url.username, url.password) if word is not None]
    flags = 0x02 | (0x80 if login else 0) | (0x40 if len(login) > 1 else 0)
    body = text("MQTT") + bytes((5, flags, 0, 10)) + b"\0" + text("") + b"".join(map(text, login))
    size = len(body)
    length = bytes((size,)) if size < 0x80 else bytes((size & 0x7F | 0x80, size >> 7))
    wire.write(b"\x10" + length + body)
    wire.flush()
    if _read(wire, 1) != b"\x20":
        raise NoAnswer("it does not speak MQTT")
    while _read(wire, 1)[0] & 0x80:
        pass  # the length, of which the last byte is below 0x80
    if reason := _read(wire, 2)[1]:
        raise NoAnswer(f"it refuses the login, with reason code 0x{reason:02X}")
    wire.write(b"\xe0\0")
    wire.flush()
    return "(MQTT 5)"


def kafka(wire: BufferedRWPair, url: SplitResult) -> str:
    """Ask for the brokers of the cluster; the answer does not tell their version."""
    metadata, version, no_topics = 3, 1, 0
    request = struct.pack("!hhihi", metadata, version, 1, -1, no_topics)
    wire.write(struct.pack("!i", len(request)) + request)
    wire.flush()
    _, request_id, brokers = struct.unpack("!iii", _read(wire, 12))
    if request_id != 1:
        raise NoAnswer("it does not speak Kafka's protocol")
    if brokers < 1:
        raise NoAnswer("it has no broker yet")
    return "(Kafka)"
