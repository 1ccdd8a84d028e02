"""Records that Kafka's client for Python can't write: by librdkafka, as clients in C write them."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import confluent_kafka  # loads librdkafka

from tests.support.kafka_server import READ_SECONDS, disposable

_PRODUCER = 0
_COPY = 2
_END, _TOPIC, _VALUE, _MESSAGE_FLAGS, _HEADER = 0, 1, 4, 7, 9
"""The kinds of the arguments of rd_kafka_producev."""

_BUFFER_BYTES = 512


@cache
def _library() -> ctypes.CDLL:
    """Return the library that Kafka's client has loaded."""
    assert confluent_kafka.libversion()
    lines = Path("/proc/self/maps").read_text().splitlines()
    (path, *_) = (line.split()[-1] for line in lines if "librdkafka" in line)
    library = ctypes.CDLL(path)
    library.rd_kafka_conf_new.restype = ctypes.c_void_p
    library.rd_kafka_new.restype = ctypes.c_void_p
    return library


@disposable
def produce_with_header(servers: str, topic: str, value: bytes, name: bytes) -> None:
    """Append a record that has a header with any bytes as its name."""
    library, said = _library(), ctypes.create_string_buffer(_BUFFER_BYTES)
    config = ctypes.c_void_p(library.rd_kafka_conf_new())
    setting = (b"bootstrap.servers", servers.encode())
    assert library.rd_kafka_conf_set(config, *setting, said, _BUFFER_BYTES) == 0, said.value
    handle = library.rd_kafka_new(_PRODUCER, config, said, ctypes.c_size_t(_BUFFER_BYTES))
    assert handle, said.value
    producer = ctypes.c_void_p(handle)
    error = library.rd_kafka_producev(
        producer,
        *(_TOPIC, ctypes.c_char_p(topic.encode())),
        *(_VALUE, ctypes.c_char_p(value), ctypes.c_size_t(len(value))),
        *(_MESSAGE_FLAGS, _COPY),
        *(_HEADER, ctypes.c_char_p(name), ctypes.c_char_p(b"value"), ctypes.c_ssize_t(5)),
        _END,
    )
    assert error == 0
    assert library.rd_kafka_flush(producer, int(READ_SECONDS * 1000)) == 0
    library.rd_kafka_destroy(producer)
