"""The schema registry: where it is, how to log in, and calls that end in time."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import urlunsplit

from django_broadcaster.exceptions import BackendUnavailable

from ...credentials import TLS
from ...errors import client_module, describe, unavailable
from ...options import OptionReader
from ..bounded import bounded

T = TypeVar("T")

DEFAULT_URL: Final = "http://localhost:8081"

OPTIONS: Final = frozenset({"url", "username", "password", "tls", "timeout"})
"""The keys of the option `schema_registry` that say how to reach it."""

_ABOUT_THE_SCHEMA: Final = frozenset({400, 404, 409, 422})
"""The statuses of answers about one schema, if they have a code of the registry's, such as 40403.

Without a code the URL is that of another server. All other errors concern every schema.
"""


_FORBIDDEN: Final = 403


class SchemaProblem(Exception):
    """The registry does not have a schema, or refuses it."""


class SchemaForbidden(BackendUnavailable):
    """The login lacks the permission for one schema; it may have that for others."""


class SchemaRegistry:
    """A registry with the REST interface of Confluent's.

    Args:
        read: Reads the keys of the option.
        options: The option `schema_registry`.
        client: A module that has to be there, and the extra of django-broadcaster with it.
    """

    def __init__(
        self, read: OptionReader, options: Mapping[str, Any], client: tuple[str, str]
    ) -> None:
        self._client = client
        url = options.get("url", DEFAULT_URL)
        if isinstance(url, str) and "," in url.rpartition("@")[2]:
            read.refuse(
                "url", "must be the address of one registry; put a proxy in front of several"
            )
        parts = read.url("url", url, ("http", "https"))
        if parts.query or parts.fragment:
            read.refuse(
                "url", "must not have a query or a fragment: what follows ? or # is not sent"
            )
        login = read.login(options.get("username"), options.get("password"), {"url": [parts]})
        is_encrypted = parts.scheme == "https"
        tls = read.tls(options.get("tls", False), by_url=is_encrypted)
        if tls is not None and not is_encrypted:
            read.refuse("tls", "needs a 'url' that begins with https://")
        self.timeout: float = read.seconds("timeout", options.get("timeout", 5.0))
        netloc = parts.netloc.rpartition("@")[2]
        self.place = f"the schema registry at {netloc}"
        self._tls = tls
        self._config: dict[str, Any] = {
            "url": urlunsplit((parts.scheme, netloc, parts.path, "", "")),
            "timeout": self.timeout,
            "max.retries": 0,  # the relay and the receiver try again
        }
        if login:
            user_info = f"{login.username or ''}:{login.password or ''}"
            self._config["basic.auth.user.info"] = user_info
        if tls is not None:
            self._config |= _encryption(read, tls)

    def ask(self, call: Callable[[Any], T]) -> T:
        """Return the result of a call, which is given a client; wait no longer than the timeout.

        The client is closed afterwards, so no connection is shared with a child process. Schemas
        that the call asked for stay in the client.

        Raises:
            SchemaProblem: The registry does not have a schema, or refuses it.
            SchemaForbidden: The login lacks the permission for the schema.
            BackendUnavailable: The registry does not answer, or refuses the login.
        """
        module = client_module(self._client, self._client[0], "confluent_kafka.schema_registry")

        def run() -> T:
            with module.SchemaRegistryClient(self._config) as client:
                return call(client)

        try:
            return bounded(run, self.timeout, "schema-registry")
        except SchemaProblem:
            raise
        except module.SchemaRegistryError as error:
            status, code = error.http_status_code, error.error_code
            is_of_registry = isinstance(code, int) and code > 0
            problem = error.error_message if is_of_registry else "check its 'url'"
            text = f"{self.place} answered {status}: {problem}"
            if is_of_registry and status in _ABOUT_THE_SCHEMA:
                raise SchemaProblem(text) from error
            if is_of_registry and status == _FORBIDDEN:
                raise SchemaForbidden(text) from error
            raise unavailable(text, error) from error
        except TimeoutError as error:
            raise self._unavailable(f"no answer within {self.timeout:g} s", error) from error
        except Exception as error:
            raise self._unavailable(describe(error), error) from error

    def _unavailable(self, problem: str, error: Exception) -> BackendUnavailable:
        return unavailable(f"{self.place}: {problem}", error)


def _encryption(read: OptionReader, tls: TLS) -> dict[str, Any]:
    if tls.verify and not tls.check_hostname:
        read.within("tls").refuse(
            "check_hostname", "can't be False: the client always checks the name with 'verify'"
        )
    paths = ssl.get_default_verify_paths()  # the client's default are authorities of its own
    settings = {
        "ssl.ca.location": (tls.ca_file or paths.cafile or paths.capath) if tls.verify else False,
        "ssl.certificate.location": tls.cert_file,
        "ssl.key.location": tls.key_file,
    }
    return {name: value for name, value in settings.items() if value is not None}
