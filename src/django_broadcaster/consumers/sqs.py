"""SQS: the messages of a queue.

A FIFO queue gives the messages of a group to one receiver at a time, in order: while some are not
deleted, no receiver is given later ones. A standard queue keeps no order.

A message that SNS has sent without raw delivery is unwrapped: body and attributes are those that
were published.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import suppress
from functools import partial
from math import ceil
from typing import Any, ClassVar, Final, TypeVar

from django_broadcaster.backends.aws.connection import CLIENT, SCHEMES, ClientOptions, Connection
from django_broadcaster.backends.aws.errors import DENIED, code_of, describe, is_about_credentials
from django_broadcaster.backends.bindings import STRUCTURED_TYPE
from django_broadcaster.backends.connected import HEALTH_SECONDS
from django_broadcaster.backends.errors import unavailable
from django_broadcaster.backends.sqs import region_of
from django_broadcaster.backends.uninstrumented import uninstrumented
from django_broadcaster.events import CloudEvent
from django_broadcaster.exceptions import BackendUnavailable

from .base import Consumer, Delivery, ReceivedMessage

T = TypeVar("T")

CALL_MESSAGES: Final = 10
"""The most messages of one call."""

POLL_SECONDS: Final = 5
"""The longest that the service waits for a message before it answers; a longer wait polls again."""

_COUNTS: Final = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesDelayed",
    "ApproximateNumberOfMessagesNotVisible",
)


class SQSConsumer(Consumer):
    """Receives the messages of a queue.

    Args:
        queue_url: The address of the queue. If its name ends with `.fifo`, the order of each
            message group is kept; otherwise there is no order.
        ordered: True, the default, for a FIFO queue. A standard queue can't have it.
        visibility_timeout: Seconds after which the queue delivers a message again that was not
            deleted. A receiver extends them while the database is slow.
        username, password: The id of an access key and its secret. Without them boto3 looks for
            credentials.
        tls: A dictionary of `ca_file`, `cert_file`, `key_file` and `verify`.
        client: Further arguments of boto3's `client()`, such as `region_name`, `endpoint_url` and
            `aws_session_token`. Its `config` may be a dictionary. The default region is the one in
            the address.
        timeout: Seconds to wait for a connection, and again for each answer.
        connections: The number of calls, of up to ten messages each, that are in flight at once.
    """

    system: ClassVar[str] = "aws_sqs"
    client_library = CLIENT

    def __init__(
        self,
        *,
        queue_url: str,
        ordered: bool | None = None,
        visibility_timeout: int = 60,
        client: Mapping[str, Any] | None = None,
        username: str | None = None,
        password: str | None = None,
        tls: bool | Mapping[str, Any] = False,
        timeout: float = 10.0,
        connections: int = 8,
        **options: Any,
    ) -> None:
        is_fifo = str(queue_url).endswith(".fifo")
        super().__init__(ordered=is_fifo if ordered is None else ordered, **options)
        self.read.url("queue_url", queue_url, SCHEMES, credentials=False)
        if self.ordered and not is_fifo:
            problem = (
                "must be False, or left out: a standard queue keeps no order; use a FIFO queue"
            )
            self.read.refuse("ordered", problem)
        self.queue_url = queue_url
        self.shares_by_key = is_fifo
        self.visibility_timeout = self.read.integer(
            "visibility_timeout", visibility_timeout, 1, 43_200, unit="seconds"
        )
        self.client_options = ClientOptions(
            self.read,
            client=client,
            username=username,
            password=password,
            tls=tls,
            timeout=timeout,
            connections=connections,
        )
        self._connection: Connection | None = None
        self._unacknowledged: dict[str, None] = {}
        self._retention: float | None = None
        self._answers = True

    # --- The contract ------------------------------------------------------------------------

    def open(self) -> None:
        """Make a client, and look up the queue.

        Raises:
            BackendUnavailable: The service is unavailable, or the queue is missing.
            BackendConfigurationError: boto3 rejects the options.
        """
        self.close()
        self._connection = self._connect()
        try:
            attributes = self._attributes("MessageRetentionPeriod")
        except BaseException:
            self._drop()
            raise
        if "MessageRetentionPeriod" in attributes:
            self._retention = float(attributes["MessageRetentionPeriod"])

    def close(self) -> None:
        """Make unacknowledged messages visible again, and disconnect."""
        if self._connection is not None and self._answers:
            with suppress(BackendUnavailable):
                self._change_visibility(list(self._unacknowledged), 0)
        self._drop()

    def receive(self, limit: int, seconds: float) -> list[Delivery]:
        """Return up to `limit` messages, those of each group in order."""
        deadline = time.monotonic() + seconds
        size = min(limit, CALL_MESSAGES)
        while True:
            left = max(0.0, deadline - time.monotonic())
            received = self._poll(size, min(ceil(left), POLL_SECONDS))
            if received or time.monotonic() >= deadline:
                break
        if len(received) == CALL_MESSAGES:
            received += self._poll_more(limit - len(received))
        self._unacknowledged.update((each["ReceiptHandle"], None) for each in received)
        return [self._delivery(each) for each in received]

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Delete messages, in calls of ten.

        A message that is visible again is left out, and is delivered again.
        """
        handles = [delivery.receipt for delivery in deliveries]
        for handle in handles:
            self._unacknowledged.pop(handle, None)
        self._each_ten(lambda client: client.delete_message_batch, handles, {})

    def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Make messages invisible for another `visibility_timeout`."""
        handles = [delivery.receipt for delivery in deliveries]
        self._change_visibility(handles, self.visibility_timeout)

    def origins(self) -> Sequence[Mapping[str, str]]:
        """Return the queue."""
        return [{"queue_url": self.queue_url}]

    def event_of(self, message: ReceivedMessage) -> CloudEvent:
        """Read a message with the attributes of CloudEvents' Kafka binding.

        A message without any of them is structured.
        """
        headers = message.headers
        if "content-type" not in headers and "ce_specversion" not in headers:
            headers = {"content-type": STRUCTURED_TYPE}
        return CloudEvent.from_kafka(headers, message.body)

    def health_check(self) -> bool:
        """Return True if the queue can be looked up, or if only that is not permitted."""
        try:
            connection = self._connect(HEALTH_SECONDS)
            try:
                connection.client.get_queue_attributes(
                    QueueUrl=self.queue_url, AttributeNames=["QueueArn"]
                )
            finally:
                connection.close()
        except Exception as error:
            return code_of(error) in DENIED
        return True

    def lag(self) -> int | None:
        """Return about how many messages are not deleted; None if we may not ask."""
        attributes = self._attributes(*_COUNTS)
        return sum(int(attributes[name]) for name in _COUNTS) if attributes else None

    @property
    def redelivery_seconds(self) -> float | None:
        """The queue's retention period, after which it deletes messages, as far as it is known."""
        return self._retention

    # --- Messages ----------------------------------------------------------------------------

    def _delivery(self, received: Mapping[str, Any]) -> Delivery:
        body, headers = received["Body"], _headers(received.get("MessageAttributes", {}))
        if not headers:
            body, headers = _unwrapped(body)
        message = ReceivedMessage(
            body=body.encode(errors="surrogatepass"),
            headers=headers,
            key=received.get("Attributes", {}).get("MessageGroupId", ""),
            origin=self.queue_url.rpartition("/")[2],
            position=received["MessageId"],
        )
        return self.delivery(message, received["ReceiptHandle"])

    # --- Calls -------------------------------------------------------------------------------

    def _poll(self, count: int, seconds: int) -> list[dict[str, Any]]:
        """Receive up to ten messages."""
        answer = self._call(
            lambda client: client.receive_message,
            MaxNumberOfMessages=count,
            WaitTimeSeconds=seconds,
            VisibilityTimeout=self.visibility_timeout,
            MessageAttributeNames=["All"],
            AttributeNames=["MessageGroupId"] if self.shares_by_key else [],
        )
        messages: list[dict[str, Any]] = answer.get("Messages", [])
        return messages

    def _poll_more(self, limit: int) -> list[dict[str, Any]]:
        """Receive more messages, in calls at once, until there are enough or no more."""
        received: list[dict[str, Any]] = []
        while limit > len(received):
            left = limit - len(received)
            sizes = [min(CALL_MESSAGES, left - start) for start in range(0, left, CALL_MESSAGES)]
            sizes = sizes[: self.client_options.connections]
            found = self._at_once([partial(self._poll_again, size) for size in sizes])
            received += [message for messages in found for message in messages]
            if not all(found):
                break
        return received

    def _poll_again(self, count: int) -> list[dict[str, Any]]:
        """Receive up to ten messages without waiting; none if the service is unavailable now."""
        try:
            return self._poll(count, 0)
        except BackendUnavailable:  # the next call of `receive` says so
            return []

    def _change_visibility(self, handles: Sequence[str], seconds: int) -> None:
        extra = {"VisibilityTimeout": seconds}
        self._each_ten(lambda client: client.change_message_visibility_batch, handles, extra)

    def _each_ten(
        self, method: Callable[[Any], Any], handles: Sequence[str], extra: Mapping[str, Any]
    ) -> None:
        """Make a call for each ten receipt handles.

        Raises:
            BackendUnavailable: A call failed, or an entry did for a reason of the service's.
        """
        if not handles:
            return

        def change(part: Sequence[str]) -> None:
            entries = [
                {"Id": str(number), "ReceiptHandle": handle, **extra}
                for number, handle in enumerate(part)
            ]
            failed = self._call(method, Entries=entries).get("Failed", ())
            for each in failed:
                # The sender's fault is a receipt that is no longer valid: the message is visible.
                if not each.get("SenderFault"):
                    raise unavailable(f"{self._place}: {each.get('Code')}: {each.get('Message')}")

        parts = [handles[n : n + CALL_MESSAGES] for n in range(0, len(handles), CALL_MESSAGES)]
        self._at_once([partial(change, part) for part in parts])

    def _at_once(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Make calls in threads; return their results, or raise the first error of any."""
        if len(calls) == 1:
            return [calls[0]()]
        threads = self._open_connection().threads()
        futures = [threads.submit(call) for call in calls]
        wait(futures)
        return [future.result() for future in futures]

    def _attributes(self, *names: str) -> Mapping[str, str]:
        """Return attributes of the queue; none if we may not read them."""
        try:
            answer = self._call(lambda client: client.get_queue_attributes, AttributeNames=names)
        except BackendUnavailable as error:
            if isinstance(error.__cause__, Exception) and code_of(error.__cause__) in DENIED:
                return {}
            raise
        attributes: Mapping[str, str] = answer.get("Attributes", {})
        return attributes

    def _call(self, method: Callable[[Any], Any], **arguments: Any) -> Mapping[str, Any]:
        """Make a call about the queue; raises BackendUnavailable."""
        connection = self._open_connection()
        try:
            with uninstrumented():
                answer: Mapping[str, Any] = method(connection.client)(
                    QueueUrl=self.queue_url, **arguments
                )
        except Exception as error:
            self._answers = bool(code_of(error))
            text = f"{self._place}: {describe(error)}"
            if code_of(error) in _MISSING:
                text += "; create the queue, or correct 'queue_url'"
            elif is_about_credentials(error):
                text += "; check the credentials"
            raise unavailable(text, error) from error
        self._answers = True
        return answer

    # --- The connection ----------------------------------------------------------------------

    def _connect(self, within: float = float("inf")) -> Connection:
        return self.client_options.connect(
            "sqs",
            self._place,
            name=f"consumer-{self.alias}",
            region=region_of(self.queue_url),
            within=within,
            poll_seconds=POLL_SECONDS,
        )

    def _open_connection(self) -> Connection:
        if self._connection is None:
            raise unavailable(f"{self._place}: not connected")
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._unacknowledged.clear()
        if connection is not None:
            connection.close()

    @property
    def _place(self) -> str:
        return f"SQS, {self.queue_url}"


_MISSING: Final = frozenset({"NonExistentQueue", "QueueDoesNotExist"})


def _headers(attributes: Mapping[str, Any]) -> dict[str, str]:
    """Return message attributes as text."""
    headers = {}
    for name, value in attributes.items():
        binary = value.get("BinaryValue")
        text = value.get("StringValue", "") if binary is None else _text(binary)
        headers[name] = text
    return headers


def _unwrapped(body: str) -> tuple[str, dict[str, str]]:
    """Return the body and the attributes of a notification of SNS; any other body as it is."""
    if '"TopicArn"' not in body:
        return body, {}
    try:
        notification = json.loads(body)
    except (ValueError, RecursionError):
        return body, {}
    if not (isinstance(notification, dict) and notification.get("Type") == "Notification"):
        return body, {}
    message = notification.get("Message")
    if not isinstance(message, str):
        return body, {}
    return message, dict(_notified(notification.get("MessageAttributes")))


def _notified(attributes: object) -> Iterator[tuple[str, str]]:
    if isinstance(attributes, dict):
        for name, value in attributes.items():
            if isinstance(value, dict) and isinstance(value.get("Value"), str):
                yield name, value["Value"]


def _text(raw: bytes) -> str:
    return raw.decode(errors="surrogateescape")
