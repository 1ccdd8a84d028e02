"""The mock broker that librdkafka has for its own tests, for answers that a real one gives nobody.

A client finds it real: it listens, speaks Kafka's protocol and keeps records in memory. These
answers are for a producer whose numbers are wrong, and for the policy of a compatible broker.
https://github.com/confluentinc/librdkafka/blob/master/src/rdkafka_mock.h
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import confluent_kafka

_PRODUCER = 0
"""A type of client."""

_PRODUCE = 0
"""The request to store records."""

_Pointer = ctypes.c_void_p
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "conf_new": (_Pointer, []),
    "new": (_Pointer, [ctypes.c_int, _Pointer, ctypes.c_char_p, ctypes.c_size_t]),
    "destroy": (None, [_Pointer]),
    "mock_cluster_new": (_Pointer, [_Pointer, ctypes.c_int]),
    "mock_cluster_destroy": (None, [_Pointer]),
    "mock_cluster_bootstraps": (ctypes.c_char_p, [_Pointer]),
    "mock_topic_create": (ctypes.c_int, [_Pointer, ctypes.c_char_p, ctypes.c_int, ctypes.c_int]),
    "mock_push_request_errors_array": (
        None,
        [_Pointer, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(ctypes.c_int)],
    ),
}


@cache
def _function(name: str) -> Any:
    function = getattr(_library(), f"rd_kafka_{name}")
    function.restype, function.argtypes = _FUNCTIONS[name]
    return function


@cache
def _library() -> ctypes.CDLL:
    """The library inside of confluent_kafka: its symbols are those of the extension module."""
    packaged = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    found = sorted(packaged.glob("librdkafka*"))
    return ctypes.CDLL(str(found[0]) if found else "librdkafka.so.1")


class MockCluster:
    """One broker. Error codes are those of Kafka's protocol, 0 for none."""

    def __init__(self) -> None:
        text = ctypes.create_string_buffer(512)
        self._client = _function("new")(_PRODUCER, _function("conf_new")(), text, len(text))
        assert self._client, text.value
        self._cluster = _function("mock_cluster_new")(self._client, 1)
        self.servers: str = _function("mock_cluster_bootstraps")(self._cluster).decode()

    def close(self) -> None:
        """End it, with all that it holds."""
        _function("mock_cluster_destroy")(self._cluster)
        _function("destroy")(self._client)

    def make_topic(self, name: str) -> None:
        """Make a topic of one partition."""
        assert _function("mock_topic_create")(self._cluster, name.encode(), 1, 1) == 0

    def fail(self, *codes: int) -> None:
        """Answer the next requests to store records so, one code each."""
        _function("mock_push_request_errors_array")(
            self._cluster, _PRODUCE, len(codes), (ctypes.c_int * len(codes))(*codes)
        )


@contextmanager
def mock_cluster() -> Iterator[MockCluster]:
    """A broker for the time of the block."""
    cluster = MockCluster()
    try:
        yield cluster
    finally:
        cluster.close()
