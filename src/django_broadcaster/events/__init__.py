"""CloudEvents 1.0.2: an immutable event that validates itself, and the JSON event format.

Attributes: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md
JSON: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md

Errors are `InvalidEvent`; their `field` is the argument's name in `publish_event` (`event_type`,
`event_id`, `source`, ...), or `event` if the JSON as a whole is wrong. This package can be imported
before `django.setup()`, and never imports the official `cloudevents` SDK.

- `cloud_event` is the class; `batch` reads and writes many events.
- `json_format` reads and writes one event as JSON, `messages` reads the protocol bindings, and
  `sdk` reads the events of the official SDK.
- `attributes`, `extensions`, `content_type` and `payload` validate the parts of an event, by the
  patterns of `grammar` and `timestamps`.
- `encoder` encodes data that are not plain JSON, and `lazy` resolves Django's lazy objects.
"""

from .absent import ABSENT, JSON_NULL, Absent
from .attributes import (
    SPEC_VERSION,
    check_data_schema,
    check_identifier,
    check_source,
    check_string,
)
from .batch import from_json_batch, to_json_batch
from .cloud_event import CloudEvent, as_cloud_event
from .encoder import EventJSONEncoder, load_encoder
from .extensions import TRACEPARENT, TRACESTATE, check_extensions
from .json_format import envelope
from .lazy import resolved
from .payload import MAX_DEPTH, MAX_DIGITS, encode_data, is_deeper

__all__ = [
    "ABSENT",
    "JSON_NULL",
    "MAX_DEPTH",
    "MAX_DIGITS",
    "SPEC_VERSION",
    "TRACEPARENT",
    "TRACESTATE",
    "Absent",
    "CloudEvent",
    "EventJSONEncoder",
    "as_cloud_event",
    "check_data_schema",
    "check_extensions",
    "check_identifier",
    "check_source",
    "check_string",
    "encode_data",
    "envelope",
    "from_json_batch",
    "is_deeper",
    "load_encoder",
    "resolved",
    "to_json_batch",
]
