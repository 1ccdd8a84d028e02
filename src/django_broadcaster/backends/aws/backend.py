"""What the backends for SQS and SNS have in common: options, client, and the contract."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cache
from typing import Any, ClassVar, Final

from django_broadcaster.exceptions import (
    BackendUnavailable,
    MissingClient,
    Rejected,
)

from ..base import Message, Outcome, Shown
from ..bindings import AWS, Binding, BindingBackend
from ..options import OptionReader
from ..outcomes import Batch
from ..uninstrumented import uninstrumented
from . import entries, errors
from .entries import Entry
from .sender import Sender

CLIENT: Final = ("boto3", "aws")
"""The client library, and the extra that it comes with."""

HEALTH_SECONDS: Final = 1.0
"""The longest that a health check waits for a connection, and again for the answer."""

BATCH_BYTES: Final = 256 * 2**10
"""What every queue and topic takes in one message, and in all messages of one call together."""

CLIENT_OPTIONS: Final = frozenset({
    "api_version", "aws_access_key_id", "aws_account_id", "aws_secret_access_key",
    "aws_session_token", "config", "endpoint_url", "region_name", "use_ssl", "verify",
})  # fmt: skip

SCHEMES: Final = ("https", "http")


class AWSBackend(BindingBackend):
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
        self.timeout = self.read.seconds("timeout", timeout)
        self.connections = self.read.integer("connections", connections, 1, 100)
        self._config, self._options = self._read_client(client, username, password, tls)
        self._session: Any = None
        self._client: Any = None
        self._pool: Executor | None = None
        self._owner = 0  # the process that made them
        self._is_stale = False

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
    def check_destination(self, read: OptionReader, destination: object) -> None:
        """Judge the name of a destination; raises the reader's error."""

    @abstractmethod
    def region(self) -> str:
        """Return the region that the destination's name has in it, or nothing."""

    # --- The contract ------------------------------------------------------------------------

    def open(self) -> None:
        """Make the client; it connects with the first call. Raises BackendUnavailable."""
        self.close()
        self._get_ready()

    def close(self) -> None:
        """Disconnect; the next publish connects again."""
        client, self._client = self._client, None
        pool, self._pool = self._pool, None
        self._session, self._is_stale = None, False
        if self._owner != os.getpid():
            return  # they are the parent process's
        if pool is not None:
            pool.shutdown()
        if client is not None:
            client.close()

    def send(self, message: Message) -> None:
        """Send one event; raises its DeliveryError."""
        (outcome,) = self.send_batch([message])
        if outcome is not None:
            raise outcome

    def send_batch(self, messages: Sequence[Message]) -> list[Outcome]:
        """Send events in calls of ten; one outcome for each, None once it is stored.

        The order of a key is kept where the destination has one (FIFO): see `sender`. What had no
        answer may have arrived: it is unavailable, and sent again. FIFO destinations drop it then.
        """
        batch = Batch(messages)
        try:
            self._get_ready()
            Sender(
                batch,
                ordered=any(_is_fifo(self._destination_of(message)) for message in messages),
                max_bytes=max(BATCH_BYTES, self.max_message_bytes or 0),
                width=self.connections,
                write=self._entry,
                send=self._send,
                executor=self._executor,
                on_progress=self.on_progress,
            ).run()
        except BackendUnavailable as error:
            batch.give_up(0, error)
        return batch.outcomes

    def health_check(self) -> bool:
        """Ask for an attribute of the destination; may take twice `HEALTH_SECONDS`.

        True, too, if that is denied: who may do no more than send is known to the service.
        """
        try:
            client = self._new_client(min(self.timeout, HEALTH_SECONDS), connections=1)
        except Exception:
            return False
        try:
            self.ask(client)
        except Exception as error:
            return errors.code_of(error) in errors.DENIED
        finally:
            client.close()
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

    def _send(self, sent: Sequence[Entry]) -> Sequence[Outcome]:
        """Make one call; return an outcome for each entry. Runs in a thread of the pool.

        A call that was refused because of something in it is made again in halves, until the
        message to blame is alone. Nothing of a refused call is stored.
        """
        destination = sent[0].destination
        try:
            with uninstrumented():
                answer = self.call(self._client, destination, [entry.fields for entry in sent])
            failed = {each["Id"]: each for each in answer.get("Failed", ())}
            stored = {each["Id"] for each in answer.get("Successful", ())}
        except Exception as error:
            if len(sent) > 1 and errors.blames_messages(error):
                return self._divide(sent)
            if errors.is_about_credentials(error):
                self._is_stale = True  # a new client looks for others
            everybodys = destination == self.destination
            place = self._place(destination)
            return [errors.failure_of_call(error, place, everybodys=everybodys)] * len(sent)
        if not failed and len(stored) == len(sent):
            return [None] * len(sent)
        return [
            None
            if entry.fields["Id"] in stored
            else errors.failure_of_entry(failed.get(entry.fields["Id"]), self._place(destination))
            for entry in sent
        ]

    def _divide(self, sent: Sequence[Entry]) -> Sequence[Outcome]:
        half = len(sent) // 2
        first = list(self._send(sent[:half]))
        away = next((each for each in first if isinstance(each, BackendUnavailable)), None)
        if away is not None:
            return [*first, *[away] * (len(sent) - half)]
        return [*first, *self._send(sent[half:])]

    def _place(self, destination: str) -> str:
        return f"{self.service.upper()}, {destination}"

    # --- The client --------------------------------------------------------------------------

    def _get_ready(self) -> None:
        """See that there is a client, and that it is this process's; raises BackendUnavailable."""
        if self._client is not None and (self._is_stale or self._owner != os.getpid()):
            self.close()
        if self._client is None:
            self._owner = os.getpid()
            self._client = self._new_client(self.timeout, self.connections)

    def _executor(self) -> Executor:
        if self._pool is None:
            name = f"outbox-{self.alias}"
            self._pool = ThreadPoolExecutor(self.connections, thread_name_prefix=name)
        return self._pool

    def _new_client(self, timeout: float, connections: int) -> Any:
        """Return a client; raises BackendUnavailable, MissingClient or BackendConfigurationError.

        botocore repeats nothing: the relay decides when to try again.
        """
        botocore = _library()
        options = {**self._options}
        if region := self.region():
            options.setdefault("region_name", region)
        ours = botocore.config.Config(
            connect_timeout=timeout,
            read_timeout=timeout,
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=connections,
        )
        try:
            config = self._config or {}
            if isinstance(config, Mapping):
                config = botocore.config.Config(**config)
            if self._session is None:
                self._session = _new_session()
            return self._session.client(self.service, **options, config=config.merge(ours))
        except TypeError as error:
            raise self.option_error("client", f"boto3 does not take it: {error}") from error
        except (botocore.exceptions.BotoCoreError, ValueError) as error:
            place = self._place(self.destination)
            raise BackendUnavailable(f"{place}: {type(error).__name__}: {error}") from error

    # --- Options -----------------------------------------------------------------------------

    def _read_client(
        self, client: Any, username: str | None, password: str | None, tls: object
    ) -> tuple[Any, dict[str, Any]]:
        """Return boto3's `config`, and its other keywords, from the options."""
        self.read.mapping("client", client, CLIENT_OPTIONS, optional=True)
        given = {"config": None, **(client or {})}
        if given.get("endpoint_url") is not None:
            self.read.within("client").url(
                "endpoint_url", given["endpoint_url"], SCHEMES, credentials=False
            )
        login = self.read.login(username, password, needs=("username", "password"))
        ours: dict[str, tuple[str, Any]] = {
            "aws_access_key_id": ("username", login.username),
            "aws_secret_access_key": ("password", login.password),
        }
        encryption = self.read.tls(tls)
        if encryption is not None:
            if not encryption.check_hostname:
                self.read.refuse("tls", "can't turn off 'check_hostname': boto3 always checks it")
            verify = encryption.verify and (encryption.ca_file or True)
            ours["verify"] = ("tls", None if verify is True else verify)
        for keyword, (option, value) in ours.items():
            if value is not None and keyword in given:
                self.read.refuse(option, f"can't be combined with {keyword!r} in 'client'")
            if value is not None:
                given[keyword] = value
        config = given.pop("config")
        if encryption is not None and encryption.cert_file is not None:
            certificate = tuple(filter(None, (encryption.cert_file, encryption.key_file)))
            if config is not None and not isinstance(config, Mapping):
                self.read.refuse("tls", "can't be combined with 'config' in 'client'")
            one = certificate if len(certificate) == 2 else certificate[0]
            config = {"client_cert": one, **(config or {})}
        return config, given


def _is_fifo(destination: str) -> bool:
    return destination.endswith(".fifo")


def _library() -> Any:
    try:
        import boto3.session  # type: ignore[import-untyped]  # noqa: F401
        import botocore.config  # type: ignore[import-untyped]
        import botocore.exceptions  # type: ignore[import-untyped]
        import botocore.loaders  # type: ignore[import-untyped]
        import botocore.session  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingClient(*CLIENT) from error
    return botocore


def _new_session() -> Any:
    """Return a session of our own, as the default one is not thread-safe.

    Reading the descriptions of the services is most of what it costs, and is done once.
    """
    import boto3.session
    import botocore.session

    session = botocore.session.get_session()
    session.register_component("data_loader", _loader())
    return boto3.session.Session(botocore_session=session)


@cache
def _loader() -> Any:
    import botocore.loaders

    return botocore.loaders.create_loader()
