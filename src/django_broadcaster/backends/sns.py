"""SNS: every event becomes a message of a topic.

Message, MessageAttributes   see `aws.entries`
MessageGroupId               on a FIFO topic: the key, or a group of its own without one
MessageDeduplicationId       on a FIFO topic: the event's id and a digest of its source
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from .aws.backend import AWSBackend

_ARN = re.compile(r"arn:[\w-]+:sns:[\w-]+:\d+:[\w-]{1,256}(\.fifo)?", re.ASCII)


class SNSBackend(AWSBackend):
    """Sends events to a topic.

    topic_arn: its ARN, for events whose `publisher_config` names no other. A name that ends with
        `.fifo` is a FIFO topic, which keeps the order of each key; any other keeps none.
    client: what boto3's `client()` takes: `region_name`, `endpoint_url`, `aws_access_key_id`,
        `verify`, ... `config` may be a dictionary. The region is the one in the ARN if it is not
        given, and credentials are found where boto3 finds them.
    content_mode: "structured", the whole event in the body, or "binary", its attributes as message
        attributes where they fit.
    timeout: seconds to wait for a connection, and again for each answer.
    connections: how many calls, of up to ten events each, may be on their way at once.

    `publisher_config` of an event may have `topic_arn`.
    """

    config_keys: ClassVar[frozenset[str]] = frozenset({"topic_arn"})
    system: ClassVar[str] = "aws.sns"
    service: ClassVar[str] = "sns"
    destination_option: ClassVar[str] = "topic_arn"

    def __init__(
        self,
        *,
        topic_arn: str,
        client: Mapping[str, Any] | None = None,
        timeout: float = 10.0,
        connections: int = 8,
        **options: Any,
    ) -> None:
        super().__init__(
            topic_arn, client=client, timeout=timeout, connections=connections, **options
        )

    def fields(self, body: str, attributes: dict[str, Any]) -> dict[str, Any]:
        """Return an entry of PublishBatch without its ids."""
        return {"Message": body, "MessageAttributes": attributes}

    def call(self, client: Any, destination: str, fields: list[dict[str, Any]]) -> Any:
        """Call PublishBatch."""
        return client.publish_batch(TopicArn=destination, PublishBatchRequestEntries=fields)

    def ask(self, client: Any) -> object:
        """Ask for the topic's attributes."""
        return client.get_topic_attributes(TopicArn=self.destination)

    def destination_problem(self, destination: object) -> str:
        """Return what is wrong with a topic's ARN, or nothing."""
        if isinstance(destination, str) and _ARN.fullmatch(destination):
            return ""
        return f"must be the ARN of a topic (arn:aws:sns:REGION:ACCOUNT:NAME), not {destination!r}"

    def region(self) -> str:
        """Return the region in the topic's ARN."""
        return self.destination.split(":")[3]
