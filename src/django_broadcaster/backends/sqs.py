"""SQS: every event becomes a message of a queue.

MessageBody, MessageAttributes   see `aws.entries`
MessageGroupId                   on a FIFO queue: the key, or a group of its own without one
MessageDeduplicationId           on a FIFO queue: the event's id and a digest of its source
"""

from __future__ import annotations

import re
from typing import Any, ClassVar
from urllib.parse import urlsplit

from .aws.backend import AWSBackend
from .aws.connection import SCHEMES
from .options import OptionReader

# sqs.eu-west-1.amazonaws.com, sqs.cn-north-1.amazonaws.com.cn, eu-west-1.queue.amazonaws.com, ...
_REGION = re.compile(r"(?:sqs(?:-fips)?\.([\w-]+)|([\w-]+)\.queue)\.(?:amazonaws\.com|api\.aws)")


class SQSBackend(AWSBackend):
    """Sends events to a queue.

    Args:
        queue_url: The address of the queue. If its name ends with `.fifo`, the order of each key is
            kept; otherwise there is no order.
        username, password: The id of an access key and its secret. Without them boto3 looks for
            credentials.
        tls: A dictionary of `ca_file`, `cert_file`, `key_file` and `verify`.
        client: Further arguments of boto3's `client()`, such as `region_name`, `endpoint_url` and
            `aws_session_token`. Its `config` may be a dictionary. The default region is the one in
            the address.
        content_mode: "structured", or "binary" with the attributes as message attributes if they
            fit.
        timeout: Seconds to wait for a connection, and again for each answer.
        connections: The number of calls, of up to ten events each, that are in flight at once.

    The `publisher_config` of an event may have `queue_url`.
    """

    config_keys: ClassVar[frozenset[str]] = frozenset({"queue_url"})
    system: ClassVar[str] = "aws_sqs"
    service: ClassVar[str] = "sqs"
    destination_option: ClassVar[str] = "queue_url"

    def __init__(self, *, queue_url: str, **options: Any) -> None:
        super().__init__(queue_url, **options)

    def fields(self, body: str, attributes: dict[str, Any]) -> dict[str, Any]:
        """Return an entry of SendMessageBatch without its ids."""
        return {"MessageBody": body, "MessageAttributes": attributes}

    def call(self, client: Any, destination: str, fields: list[dict[str, Any]]) -> Any:
        """Call SendMessageBatch."""
        return client.send_message_batch(QueueUrl=destination, Entries=fields)

    def ask(self, client: Any) -> object:
        """Ask for the queue's ARN."""
        return client.get_queue_attributes(QueueUrl=self.destination, AttributeNames=["QueueArn"])

    def check_destination(self, read: OptionReader, destination: object) -> None:
        """Judge a queue's address; raises the reader's error."""
        read.url("queue_url", destination, SCHEMES, credentials=False)

    def region(self) -> str:
        """Return the region in the queue's address, or nothing."""
        return region_of(self.destination)


def region_of(queue_url: str) -> str:
    """Return the region in a queue's address, or nothing."""
    found = _REGION.match(urlsplit(queue_url).hostname or "")
    return (found[1] or found[2]) if found else ""
