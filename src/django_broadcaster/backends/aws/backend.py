"""The base of the backends for SQS and SNS: options, client, and the contract."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from math import inf
from typing import Any, ClassVar, Final

from django_broadcaster.exceptions import (
    BackendUnavailable,
    Rejected,
)

from ..base import Message, Outcome, Shown
from ..bindings import AWS, Binding, BindingBackend
from ..connected import ConnectedBackend
from ..errors import Scope
from ..options import OptionReader
from ..outcomes import MessageBatch
from ..uninstrumented import uninstrumented
from . import entries, errors
from .connection import CLIENT, ClientOptions, Connection
from .entries import Entry
from .sender import Sender

BATCH_BYTES: Final = 256 * 2**10
"""The limit for one message, and for all messages of one call, in every queue and topic."""


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
        /,
        *,
        client: Mapping[str, Any] | None = None,
        username: str | None = None,
        password: str | None = None,
        tls: bool | Mapping[str, Any] = False,
        timeout: float = 10.0,
        connections: int = 8,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.destination = destination
        self.check_destination(self.read, destination)
        self.client_options = ClientOptions(
            self.read,
            client=client,
            username=username,
            password=password,
            tls=tls,
            timeout=timeout,
            connections=connections,
        )

    # --- What a service is like --------------------------------------------------------------

    @abstractmethod
    def fields(self, body: str, attributes: dict[str, Any]) -> dict[str, Any]:
        """Return an entry of a batch call without its ids, in the API's terms."""

    @abstractmethod
    def call(self, client: Any, destination: str, fields: list[dict[str, Any]]) -> Any:
        """Make one batch call; return its answer."""

    @abstractmethod
    def ask(self, client: Any) -> object:
        """Make a call that costs nothing."""

    @abstractmethod
    def check_destination(self, read: OptionReader, destination: object) -> None:
        """Judge the name of a destination; raises the reader's error."""

    @abstractmethod
    def region(self) -> str:
        """Return the region that the destination's name has in it, or nothing."""

    # --- The contract ------------------------------------------------------------------------

    def connect(self, within: float = inf) -> Connection:
        """Return a client; it connects with the first call.

        Raises:
            BackendUnavailable: A file of `tls` can't be read.
            MissingClient: boto3 is not installed.
            BackendConfigurationError: boto3 rejects the options.
        """
        return self.client_options.connect(
            self.service,
            self._place(self.destination),
            name=f"outbox-{self.alias}",
            region=self.region(),
            within=within,
            session=None if self._connection is None else self._connection.session,
        )

    def deliver(self, batch: MessageBatch, connection: Connection) -> None:
        """Send events in calls of ten.

        The order of a key is kept where the destination has one (FIFO): see `sender`. FIFO
        destinations drop what is sent again.
        """
        Sender(
            batch,
            ordered=any(_is_fifo(self._destination_of(message)) for message in batch.messages),
            max_bytes=max(BATCH_BYTES, self.max_message_bytes or 0),
            width=self.client_options.connections,
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
        for value in config.values():
            self.check_destination(self.read_config, value)

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
        message that caused it is alone. Nothing of a refused call is stored.
        """
        destination = sent[0].destination
        try:
            with uninstrumented():
                answer = self.call(connection.client, destination, [entry.fields for entry in sent])
            failed = {each["Id"]: each for each in answer.get("Failed", ())}
            stored = {each["Id"] for each in answer.get("Successful", ())}
        except Exception as error:
            if len(sent) > 1 and errors.scope_of(error) is Scope.EVENT:
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


def _is_fifo(destination: str) -> bool:
    return destination.endswith(".fifo")
