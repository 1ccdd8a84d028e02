"""Where the brokers are and how to log in: the options that the backend and the consumer share."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..credentials import TLS, Login
from ..errors import client_module, mapped, unavailable
from ..options import OptionReader
from .bounded import bounded

CLIENT: Final = ("confluent_kafka", "kafka")
"""The client library, and the extra that it comes with."""

DEFAULT_SERVERS: Final = "localhost:9092"

CLOSE_SECONDS: Final = 5.0
"""Seconds that a client may take to disconnect before it is left to itself."""

DEFAULTS: Final[Mapping[str, Any]] = {
    "client.id": "django-broadcaster",
    # Without a limit of its own, the return of a broker may go unnoticed for ten seconds.
    "reconnect.backoff.max.ms": 1000,
    # Each attempt to connect is an error to it. The last one is in our own errors; what it logs
    # beyond is what it cannot go on after.
    "log_level": 2,
}

_REFUSED: Final[Mapping[str, str]] = {
    "bootstrap.servers": "give the option 'bootstrap_servers' instead",
    "metadata.broker.list": "give the option 'bootstrap_servers' instead",
    "error_cb": "django-broadcaster uses it",
}


class Address:
    """The options that say how to connect; raises the reader's error for a wrong one.

    Args:
        refused: The keys of `config` that can't be set, each with the reason.
    """

    def __init__(
        self,
        read: OptionReader,
        *,
        bootstrap_servers: str | Sequence[str],
        username: str | None,
        password: str | None,
        tls: bool | Mapping[str, Any],
        config: Mapping[str, Any] | None,
        refused: Mapping[str, str],
    ) -> None:
        servers = read.one_or_more("bootstrap_servers", bootstrap_servers, "'host:port'")
        self.servers = ",".join(servers)
        self._tls = read.tls(tls)
        read.mapping("config", config, optional=True)
        within = read.within("config")
        for key in config or ():
            if reason := {**_REFUSED, **refused}.get(key):
                within.refuse(key, f"can't be set: {reason}")
        login = read.login(username, password)
        self.config = _with_credentials(read, dict(config or {}), login=login, tls=self._tls)
        """The settings of librdkafka that the project gives by its options."""

    @property
    def place(self) -> str:
        """The name of the cluster in errors."""
        return f"Kafka at {self.servers}"

    def check_files(self) -> None:
        """Raise BackendUnavailable if a file of `tls` can't be read."""
        if self._tls is not None:
            with mapped(lambda error: unavailable(f"{self.place}: TLS: {error}")):
                self._tls.check_files()

    def settings(self, ours: Mapping[str, Any]) -> dict[str, Any]:
        """Return librdkafka's settings: the project's over `ours`, which are over the defaults."""
        logs = {"logger": logging.getLogger("django_broadcaster")}
        servers = {"bootstrap.servers": self.servers}
        return {**DEFAULTS, **logs, **ours, **self.config, **servers}

    def answers(self, topic: str, seconds: float) -> bool:
        """Return True if a broker answers a question for a topic over a connection of its own.

        It is enough that there is an answer, also that the topic is missing.
        """

        def ask() -> None:
            ours = {"enable.idempotence": False, "allow.auto.create.topics": False}
            client = client_class("Producer")({**self.settings({}), **ours, "error_cb": _ignore})
            client.list_topics(topic, timeout=seconds)
            client.close()

        try:
            bounded(ask, seconds + CLOSE_SECONDS, "kafka-health")
        except Exception:
            return False
        return True


def client_class(name: str) -> Any:
    """Return a class of the client, and none that OpenTelemetry has put in its place.

    Its producer adds a `traceparent` of its own to each record.
    """
    return getattr(client_module(CLIENT, "confluent_kafka", "confluent_kafka.cimpl"), name)


def _with_credentials(
    read: OptionReader, config: dict[str, Any], *, login: Login, tls: TLS | None
) -> dict[str, Any]:
    """Return the settings with those for `username`, `password` and `tls`."""
    for option, ours in (("username", _login(login)), ("tls", _encryption(tls))):
        for key in ours.keys() & config.keys():
            read.refuse(option, f"can't be combined with {key!r} in 'config'")
        config |= ours
    if login or tls:
        protocol = ("sasl_" if login else "") + ("ssl" if tls else "plaintext")
        if str(config.setdefault("security.protocol", protocol)).lower() != protocol:
            read.within("config").refuse("security.protocol", f"must be {protocol!r}, or left out")
    if login and not config.keys() & {"sasl.mechanism", "sasl.mechanisms"}:
        config["sasl.mechanisms"] = "PLAIN"
    return config


def _login(login: Login) -> dict[str, Any]:
    if not login:
        return {}
    return {"sasl.username": login.username or "", "sasl.password": login.password or ""}


def _encryption(tls: TLS | None) -> dict[str, Any]:
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


def _ignore(_: object) -> None:
    pass
