"""What the backends for SQS and SNS have in common: options, client, and the contract."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

from django_broadcaster.exceptions import (
    BackendUnavailable,
    InvalidPublisherConfig,
    Rejected,
)

from ..base import Message, Outcome, Shown
from ..bindings import AWS, Binding, BindingBackend
from ..connected import ConnectedBackend
from ..errors import Blame, describe, mapped, unavailable
from ..outcomes import Batch
from ..uninstrumented import uninstrumented
from . import entries, errors
from .connection import CLIENT, Connection
from .entries import Entry
from .sender import Sender

BATCH_BYTES: Final = 256 * 2**10
"""What every queue and topic takes in one message, and in all messages of one call together."""

CLIENT_OPTIONS: Final = frozenset({
    "api_version", "aws_access_key_id", "aws_account_id", "aws_secret_access_key",
    "aws_session_token", "config", "endpoint_url", "region_name", "use_ssl", "verify",
})  # fmt: skip


class AWSBackend(ConnectedBackend[Connection], BindingBackend):
    """Sends events to a destination in batch calls of boto3.

    A subclass names its service, the option for its destination, and writes the four methods below.
    """

    binding: Binding = AWS
    client_library = CLIENT
    default_max_message_bytes: ClassVar[int | None] = BATCH_BYTES

    service: ClassVar[str]
    destination_option: ClassVar[str]

    def __init__(
        self,
        destination: str,
        *,
        client: Mapping[str, Any] | None = None,
        timeout: float = 10.0,
        connections: int = 8,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.destination, self.timeout, self.connections = destination, timeout, connections
        self._options: Mapping[str, Any] = {} if client is None else client
        for option, problem in self._problems():
            raise self.option_error(option, problem)

    # --- What a service is like --------------------------------------------------------------

    @abstractmethod
    def fields(self, body: str, attributes: dict[str, Any]) -> dict[str, Any]:
        """Return an entry of a batch call without its ids, in the API's terms."""

    @abstractmethod
    def call(self, client: Any, destination: str, fields: list[dict[str, Any]]) -> Any:
        """Make one batch call; return its answer."""

    @abstractmethod
    def ask(self, client: Any) -> object:
        """Ask for something that costs nothing."""

    @abstractmethod
    def destination_problem(self, destination: object) -> str:
        """Return what is wrong with the name of a destination, or nothing."""

    @abstractmethod
    def region(self) -> str:
        """Return the region that the destination's name has in it, or nothing."""

    # --- The contract ------------------------------------------------------------------------

    def connect(self, within: float = inf) -> Connection:
        """Return a client; it connects with the first call.

        Raises BackendUnavailable, MissingClient or BackendConfigurationError.
        """
        options = {key: value for key, value in self._options.items() if key != "config"}
        if region := self.region():
            options.setdefault("region_name", region)
        with mapped(self._failure_to_connect):
            return Connection(
                self.service,
                options,
                session=None if self._connection is None else self._connection.session,
                config=self._options.get("config") or {},
                timeout=min(self.timeout, within),
                threads=self.connections,
                name=f"outbox-{self.alias}",
            )

    def deliver(self, batch: Batch, connection: Connection) -> None:
        """Send events in calls of ten.

        The order of a key is kept where the destination has one (FIFO): see `sender`. FIFO
        destinations drop what is sent again.
        """
        Sender(
            batch,
            ordered=any(_is_fifo(self._destination_of(message)) for message in batch.messages),
            max_bytes=max(BATCH_BYTES, self.max_message_bytes or 0),
            width=self.connections,
            write=self._entry,
            send=partial(self._send, connection),
            executor=connection.threads,
            on_progress=self.on_progress,
        ).run()

    def is_up(self, connection: Connection) -> bool:
        """Ask for an attribute of the destination; may take twice `HEALTH_SECONDS`.

        True, too, if that is denied: a user that may do no more than send is known to the service.
        """
        try:
            self.ask(connection.client)
        except Exception as error:
            return errors.code_of(error) in errors.DENIED
        return True

    def validate_config(self, config: Mapping[str, Any]) -> None:
        """Judge the destination, too; raises InvalidPublisherConfig."""
        super().validate_config(config)
        for key, value in config.items():
            if problem := self.destination_problem(value):
                raise InvalidPublisherConfig(f"{key!r} {problem}", self.alias)

    def show(self, message: Message) -> Shown:
        """Return the body and the attributes as the service is given them."""
        written = entries.write(message, self.content_mode)
        entry = self._entry(0, message)
        ids = ("MessageGroupId", "MessageDeduplicationId")
        destination = {self.destination_option: entry.destination}
        destination |= {name: entry.fields[name] for name in ids if name in entry.fields}
        attributes = {name: value["StringValue"] for name, value in written.attributes.items()}
        return Shown(destination, attributes, written.body.encode())

    # --- Messages ----------------------------------------------------------------------------

    def _destination_of(self, message: Message) -> str:
        if not message.config:
            return self.destination
        return str(message.config.get(self.destination_option, self.destination))

    def _entry(self, index: int, message: Message) -> Entry:
        """Return a message as an entry; raises Rejected for one that cannot be sent."""
        written = entries.write(message, self.content_mode)
        if self.max_message_bytes is not None and written.size > self.max_message_bytes:
            raise Rejected(
                f"the message takes {written.size} bytes with its attributes, over the limit of "
                f"{self.max_message_bytes} of the backend's max_message_bytes"
            )
        destination = self._destination_of(message)
        fields = self.fields(written.body, written.attributes)
        fields["Id"] = str(index)
        if _is_fifo(destination):
            fields["MessageGroupId"] = entries.group_id(message)
            fields["MessageDeduplicationId"] = entries.deduplication_id(message)
        return Entry(index, destination, fields, written.size)

    # --- Calls -------------------------------------------------------------------------------

    def _send(self, connection: Connection, sent: Sequence[Entry]) -> Sequence[Outcome]:
        """Make one call; return an outcome for each entry. Runs in a thread of the pool.

        A call that was refused because of something in it is made again in halves, until the
        message to blame is alone. Nothing of a refused call is stored.
        """
        destination = sent[0].destination
        try:
            with uninstrumented():
                answer = self.call(connection.client, destination, [entry.fields for entry in sent])
            failed = {each["Id"]: each for each in answer.get("Failed", ())}
            stored = {each["Id"] for each in answer.get("Successful", ())}
        except Exception as error:
            if len(sent) > 1 and errors.blame(error) is Blame.EVENT:
                return self._divide(connection, sent)
            if errors.is_about_credentials(error):
                connection.is_stale = True  # a new client looks for others
            shared = destination == self.destination
            place = self._place(destination)
            return [errors.failure_of_call(error, place, shared=shared)] * len(sent)
        if not failed and len(stored) == len(sent):
            return [None] * len(sent)
        return [
            None
            if entry.fields["Id"] in stored
            else errors.failure_of_entry(failed.get(entry.fields["Id"]), self._place(destination))
            for entry in sent
        ]

    def _divide(self, connection: Connection, sent: Sequence[Entry]) -> Sequence[Outcome]:
        half = len(sent) // 2
        first = list(self._send(connection, sent[:half]))
        away = next((each for each in first if isinstance(each, BackendUnavailable)), None)
        if away is not None:
            return [*first, *[away] * (len(sent) - half)]
        return [*first, *self._send(connection, sent[half:])]

    def _place(self, destination: str) -> str:
        return f"{self.service.upper()}, {destination}"

    def _failure_to_connect(self, error: Exception) -> Exception:
        if isinstance(error, TypeError):
            return self.option_error("client", f"boto3 does not take it: {error}")
        return unavailable(f"{self._place(self.destination)}: {describe(error)}")

    # --- Options -----------------------------------------------------------------------------

    def _problems(self) -> Iterator[tuple[str, str]]:
        """Yield the option and what is wrong with it."""
        if problem := self.destination_problem(self.destination):
            yield self.destination_option, problem
        seconds: object = self.timeout
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds <= 0:
            yield "timeout", f"must be seconds above 0, not {seconds!r}"
        if type(self.connections) is not int or not 0 < self.connections <= 100:
            yield "connections", f"must be a whole number from 1 to 100, not {self.connections!r}"
        options: object = self._options
        if not isinstance(options, Mapping):
            yield "client", "must be a dictionary of what boto3's client() takes"
            return
        if unknown := sorted(map(repr, options.keys() - CLIENT_OPTIONS)):
            known = ", ".join(sorted(map(repr, CLIENT_OPTIONS)))
            yield "client", f"does not know {', '.join(unknown)}; known: {known}"
        url = options.get("endpoint_url")
        if url is not None and (problem := url_problem(url)):
            yield "client", f"'endpoint_url' {problem}"


def url_problem(url: object) -> str:
    """Return what is wrong with the address of an HTTP server, or nothing; never shows it."""
    problem = "must be an http:// or https:// URL without a user and a password"
    if not isinstance(url, str):
        return problem
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        return problem
    return "" if fine and "@" not in url and url.isprintable() and " " not in url else problem


def _is_fifo(destination: str) -> bool:
    return destination.endswith(".fifo")
