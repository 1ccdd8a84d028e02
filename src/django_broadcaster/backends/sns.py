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

    topic_arn: its ARN, for events whose `publisher_config` names no other. A name that ends with
        `.fifo` is a FIFO topic, which keeps the order of each key; any other keeps none.
    username, password: the id of an access key and its secret. Without them credentials are found
        where boto3 finds them.
    tls: a dictionary of `ca_file`, `cert_file`, `key_file` and `verify`.
    client: what else boto3's `client()` takes: `region_name`, `endpoint_url`, `aws_session_token`,
        ... `config` may be a dictionary. The region is the one in the ARN if it is not
        given.
    content_mode: "structured", the whole event in the body, or "binary", its attributes as message
        attributes where they fit.
    timeout: seconds to wait for a connection, and again for each answer.
    connections: how many calls, of up to ten events each, may be in flight at once.

    `publisher_config` of an event may have `topic_arn`.
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
