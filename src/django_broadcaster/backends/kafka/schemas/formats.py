"""The formats that a schema registry may have, by the names in the option `format`."""

from __future__ import annotations

from typing import Any, Final

from .avro import AvroFormat
from .protobuf import ProtobufFormat

FORMATS: Final[dict[str, Any]] = {"avro": AvroFormat, "protobuf": ProtobufFormat}
