"""SNS: every event becomes a message of a topic.

Message, MessageAttributes   see `aws.entries`
MessageGroupId               on a FIFO topic: the key, or a group of its own without one
MessageDeduplicationId       on a FIFO topic: the event's id and a digest of its source
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from .aws.backend import AWSBackend
from .options import OptionReader

_ARN = re.compile(r"arn:[\w-]+:sns:[\w-]+:\d+:[\w-]{1,256}(\.fifo)?", re.ASCII)


class SNSBackend(AWSBackend):
    """Sends events to a topic.

    Args:
        topic_arn: The ARN of the topic. If its name ends with `.fifo`, the order of each key is
            kept; otherwise there is no order.
        username, password: The id of an access key and its secret. Without them boto3 looks for
            credentials.
        tls: A dictionary of `ca_file`, `cert_file`, `key_file` and `verify`.
        client: Further arguments of boto3's `client()`, such as `region_name`, `endpoint_url` and
            `aws_session_token`. Its `config` may be a dictionary. The default region is the one in
            the ARN.
        content_mode: "structured", or "binary" with the attributes as message attributes if they
            fit.
        timeout: Seconds to wait for a connection, and again for each answer.
        connections: The number of calls, of up to ten events each, that are in flight at once.

    The `publisher_config` of an event may have `topic_arn`.
    """

    config_keys: ClassVar[frozenset[str]] = frozenset({"topic_arn"})
    system: ClassVar[str] = "aws.sns"
    service: ClassVar[str] = "sns"
    destination_option: ClassVar[str] = "topic_arn"

    def __init__(self, *, topic_arn: str, **options: Any) -> None:
        super().__init__(topic_arn, **options)

    def fields(self, body: str, attributes: dict[str, Any]) -> dict[str, Any]:
        """Return an entry of PublishBatch without its ids."""
        return {"Message": body, "MessageAttributes": attributes}

    def call(self, client: Any, destination: str, fields: list[dict[str, Any]]) -> Any:
        """Call PublishBatch."""
        return client.publish_batch(TopicArn=destination, PublishBatchRequestEntries=fields)

    def ask(self, client: Any) -> object:
        """Ask for the topic's attributes."""
        return client.get_topic_attributes(TopicArn=self.destination)

    def check_destination(self, read: OptionReader, destination: object) -> None:
        """Judge a topic's ARN; raises the reader's error."""
        holds = isinstance(destination, str) and _ARN.fullmatch(destination) is not None
        rule = "the ARN of a topic (arn:aws:sns:REGION:ACCOUNT:NAME)"
        read.require("topic_arn", destination, holds, rule)

    def region(self) -> str:
        """Return the region in the topic's ARN."""
        return self.destination.split(":")[3]
