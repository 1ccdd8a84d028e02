"""The mock cluster that librdkafka has for its own tests: brokers that fail on demand.

They are real to a client: they listen, speak Kafka's protocol and keep records in memory. What a
broker answers when its disk is full or a replica is missing can be had from no other one at will.
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

PRODUCE = 0
METADATA = 3
_PRODUCER = 0

_Pointer = ctypes.c_void_p
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "conf_new": (_Pointer, []),
    "new": (_Pointer, [ctypes.c_int, _Pointer, ctypes.c_char_p, ctypes.c_size_t]),
    "destroy": (None, [_Pointer]),
    "mock_cluster_new": (_Pointer, [_Pointer, ctypes.c_int]),
    "mock_cluster_destroy": (None, [_Pointer]),
    "mock_cluster_bootstraps": (ctypes.c_char_p, [_Pointer]),
    "mock_topic_create": (ctypes.c_int, [_Pointer, ctypes.c_char_p, ctypes.c_int, ctypes.c_int]),
    "mock_topic_set_error": (None, [_Pointer, ctypes.c_char_p, ctypes.c_int]),
    "mock_push_request_errors_array": (
        None,
        [_Pointer, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(ctypes.c_int)],
    ),
    "mock_clear_request_errors": (None, [_Pointer, ctypes.c_int16]),
    "mock_broker_set_down": (ctypes.c_int, [_Pointer, ctypes.c_int32]),
    "mock_broker_set_up": (ctypes.c_int, [_Pointer, ctypes.c_int32]),
    "mock_start_request_tracking": (None, [_Pointer]),
    "mock_clear_requests": (None, [_Pointer]),
    "mock_get_requests": (_Pointer, [_Pointer, ctypes.POINTER(ctypes.c_size_t)]),
    "mock_request_destroy_array": (None, [_Pointer, ctypes.c_size_t]),
    "mock_request_api_key": (ctypes.c_int16, [_Pointer]),
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
    """Brokers, numbered from 1. Error codes are those of Kafka's protocol, 0 for none."""

    def __init__(self, brokers: int = 1) -> None:
        self.brokers = brokers
        text = ctypes.create_string_buffer(512)
        self._client = _function("new")(_PRODUCER, _function("conf_new")(), text, len(text))
        assert self._client, text.value
        self._cluster = _function("mock_cluster_new")(self._client, brokers)
        self.servers: str = _function("mock_cluster_bootstraps")(self._cluster).decode()
        _function("mock_start_request_tracking")(self._cluster)

    def close(self) -> None:
        """End it, with all that it holds."""
        _function("mock_cluster_destroy")(self._cluster)
        _function("destroy")(self._client)

    def make_topic(self, name: str, partitions: int = 1) -> None:
        """Make a topic whose partitions are on all brokers."""
        code = _function("mock_topic_create")(
            self._cluster, name.encode(), partitions, self.brokers
        )
        assert code == 0

    def break_topic(self, name: str, code: int) -> None:
        """Answer questions for a topic with an error; 0 ends it."""
        _function("mock_topic_set_error")(self._cluster, name.encode(), code)

    def fail(self, *codes: int, request: int = PRODUCE) -> None:
        """Answer the next requests of a kind so, one code each."""
        _function("mock_push_request_errors_array")(
            self._cluster, request, len(codes), (ctypes.c_int * len(codes))(*codes)
        )

    def heal(self, request: int = PRODUCE) -> None:
        """Forget the codes that are left."""
        _function("mock_clear_request_errors")(self._cluster, request)

    @contextmanager
    def down(self) -> Iterator[None]:
        """All brokers refuse connections, for the time of the block; they keep their records."""
        for broker in range(1, self.brokers + 1):
            _function("mock_broker_set_down")(self._cluster, broker)
        yield
        for broker in range(1, self.brokers + 1):
            _function("mock_broker_set_up")(self._cluster, broker)

    def requests(self, kind: int = PRODUCE) -> int:
        """Return how many requests of a kind came since the last call."""
        count = ctypes.c_size_t()
        found = _function("mock_get_requests")(self._cluster, ctypes.byref(count))
        each = ctypes.cast(found, ctypes.POINTER(_Pointer))
        kinds = [_function("mock_request_api_key")(each[i]) for i in range(count.value)]
        _function("mock_request_destroy_array")(found, count)
        _function("mock_clear_requests")(self._cluster)
        return kinds.count(kind)


@contextmanager
def mock_cluster(brokers: int = 1) -> Iterator[MockCluster]:
    """A cluster for the time of the block."""
    cluster = MockCluster(brokers)
    try:
        yield cluster
    finally:
        cluster.close()
