"""CloudEvents 1.0.2: an immutable event that validates itself, and the JSON event format.

Attributes: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md
JSON: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md

Errors are `InvalidEvent`; their `field` is the argument's name in `publish_event` (`event_type`,
`event_id`, `source`, ...), or `event` where the JSON as a whole is wrong. This package imports
before `django.setup()`, and never imports the official `cloudevents` SDK.

`cloud_event` is the class; `batch` reads and writes many. Below them, `json_format` is one event
on the wire, `messages` reads the protocol bindings, `sdk` reads the official SDK's events, and
`attributes`, `extensions`, `content_type` and `payload` say what an event may hold, by the patterns
of `grammar` and `timestamps`. `encoder` is how data that is not plain JSON becomes it, and `lazy`
resolves objects that stand for others.
"""

from .absent import ABSENT, JSON_NULL, Absent
from .attributes import SPEC_VERSION, check_identifier, check_string
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
    "check_extensions",
    "check_identifier",
    "check_string",
    "encode_data",
    "envelope",
    "from_json_batch",
    "is_deeper",
    "load_encoder",
    "resolved",
    "to_json_batch",
]
