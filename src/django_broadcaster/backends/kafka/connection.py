"""librdkafka: how it is loaded, and what it is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django_broadcaster.exceptions import MissingClient

from ..credentials import TLS, Login
from ..options import OptionReader

CLIENT: Final = ("confluent_kafka", "kafka")
"""The client library, and the extra that it comes with."""


def library() -> Any:
    """Return librdkafka's client for Python; raises MissingClient."""
    try:
        import confluent_kafka
    except ImportError as error:
        raise MissingClient(*CLIENT) from error
    return confluent_kafka


def producer(config: Mapping[str, Any]) -> Any:
    """Return a producer, and none that OpenTelemetry has put in its place.

    That one adds a `traceparent` of its own to each record.
    """
    library()
    from confluent_kafka.cimpl import Producer

    return Producer(dict(config))


# --- Settings: https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md -----------

RECORD_BYTES: Final = 48_576
"""What a record may take beside the event: its key, the names of its headers, Kafka's framing."""

FRAMING_BYTES: Final = 64
"""What Kafka's format adds to a record at the most, and to a record batch."""

HEADER_FRAMING_BYTES: Final = 10
"""What it adds to a header at the most."""

DEFAULTS: Final[Mapping[str, Any]] = {
    "client.id": "django-broadcaster",
    # As the clients in Java choose partitions: all producers of a topic agree where a key belongs.
    "partitioner": "murmur2_random",
    # Without a limit of its own, the return of a broker may go unnoticed for ten seconds.
    "reconnect.backoff.max.ms": 1000,
    # Each attempt to connect is an error to it. The last one is in our own errors; what it logs
    # beyond is what it cannot go on after.
    "log_level": 2,
    "batch.size": 1_000_000,
    "batch.num.messages": 10_000,
}

_OURS: Final[Mapping[str, Any]] = {
    "acks": "all",
    "enable.idempotence": True,
    # Never send part of a wave, nor give up on single events of it: see `KafkaBackend`.
    "linger.ms": 300_000,
    "message.timeout.ms": 0,
}

_MUST_BE: Final[Mapping[str, tuple[str, ...]]] = {
    "acks": ("all", "-1"),
    "request.required.acks": ("all", "-1"),
    "enable.idempotence": ("true", "1", "t"),
    "delivery.report.only.error": ("false", "0", "f"),
}

_REFUSED: Final[Mapping[str, str]] = {
    "bootstrap.servers": "give the option 'bootstrap_servers' instead",
    "metadata.broker.list": "give the option 'bootstrap_servers' instead",
    "message.max.bytes": "give the option 'max_message_bytes' instead",
    "message.timeout.ms": "give the option 'timeout' instead",
    "delivery.timeout.ms": "give the option 'timeout' instead",
    "transactional.id": "the backend uses no transactions of Kafka",
    **dict.fromkeys(
        ("linger.ms", "queue.buffering.max.ms"), "the backend itself says when to send"
    ),
    **dict.fromkeys(
        ("queue.buffering.max.messages", "queue.buffering.max.kbytes"),
        "no more than 'batch.size' waits to be sent",
    ),
    **dict.fromkeys(("error_cb", "on_delivery"), "the backend needs it itself"),
}


def read_config(
    read: OptionReader, config: Mapping[str, Any] | None, *, login: Login, tls: TLS | None
) -> dict[str, Any]:
    """Return librdkafka's settings as the options say; raises BackendConfigurationError.

    What contradicts a promise of the backend is refused. Whether librdkafka knows a key, and takes
    its value, it says itself when it is started.
    """
    read.mapping("config", config, optional=True)
    given = dict(config or {})
    within = read.within("config")
    for key, value in given.items():
        text = str(value).lower()
        if key in _REFUSED:
            within.refuse(key, f"can't be set: {_REFUSED[key]}")
        elif key in _MUST_BE and text not in _MUST_BE[key]:
            within.refuse(key, f"must be {_MUST_BE[key][0]!r}, or left out: events would get lost")
        elif key == "partitioner" and text == "random":
            within.refuse(key, "can't be 'random': the events of a key would have no order")
        elif key in ("batch.size", "batch.num.messages") and not text.isdecimal():
            within.refuse(key, f"must be a whole number, not {value!r}")
    for option, ours in (("username", _login(login)), ("tls", _tls(tls))):
        for key in ours.keys() & given.keys():
            read.refuse(option, f"can't be combined with {key!r} in 'config'")
        given |= ours
    if login or tls:
        protocol = ("sasl_" if login else "") + ("ssl" if tls else "plaintext")
        if given.setdefault("security.protocol", protocol).lower() != protocol:
            within.refuse("security.protocol", f"must be {protocol!r}, or left out")
    if login and not given.keys() & {"sasl.mechanism", "sasl.mechanisms"}:
        given["sasl.mechanisms"] = "PLAIN"
    return given


def _login(login: Login) -> dict[str, Any]:
    if not login:
        return {}
    return {"sasl.username": login.username or "", "sasl.password": login.password or ""}


def _tls(tls: TLS | None) -> dict[str, Any]:
    if tls is None:
        return {}
    settings = {
        "ssl.ca.location": tls.ca_file,
        "ssl.certificate.location": tls.cert_file,
        "ssl.key.location": tls.key_file or tls.cert_file,
        "enable.ssl.certificate.verification": None if tls.verify else False,
        "ssl.endpoint.identification.algorithm": None if tls.checks_hostname else "none",
    }
    return {key: value for key, value in settings.items() if value is not None}


def client_config(
    bootstrap_servers: str, max_message_bytes: int, config: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all that librdkafka is told: our defaults, then the project's, then what must be."""
    ours = {
        **_OURS,
        "bootstrap.servers": bootstrap_servers,
        "message.max.bytes": max_message_bytes + RECORD_BYTES,
    }
    return {**DEFAULTS, **{key: config[key] for key in config if key not in _MUST_BE}, **ours}
