"""Avro and Protobuf by a schema registry, in the wire format of Confluent's clients.

    byte 0        0, the magic byte
    bytes 1 to 4  the id of the schema in the registry, big-endian
    Protobuf      the indexes that lead to the message in its file
    the rest      the data

https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html

`registry` knows where the registry is, and bounds each call. `writing` encodes the data of events
for the backend, and `reading` decodes values for the consumer. `avro` and `protobuf` are the
formats: each turns JSON values into its own types and back.
"""

from .reading import MAGIC, ValueReader
from .writing import ValueWriter

__all__ = ["MAGIC", "ValueReader", "ValueWriter"]
