"""The meaning of librdkafka's errors for events.

https://kafka.apache.org/protocol#protocol_error_codes; a leading `_` marks librdkafka's own errors.
"""

from __future__ import annotations

from typing import Any, Final

from ..errors import ErrorTable, Scope

ERRORS: Final = ErrorTable({
    Scope.BROKER: {
        "BROKER_NOT_AVAILABLE", "CLUSTER_AUTHORIZATION_FAILED", "CONCURRENT_TRANSACTIONS",
        "COORDINATOR_LOAD_IN_PROGRESS", "COORDINATOR_NOT_AVAILABLE", "FENCED_LEADER_EPOCH",
        "ILLEGAL_SASL_STATE", "INVALID_PRODUCER_EPOCH", "INVALID_PRODUCER_ID_MAPPING",
        "INVALID_REQUIRED_ACKS", "INVALID_TXN_STATE", "KAFKA_STORAGE_ERROR",
        "LEADER_NOT_AVAILABLE", "NETWORK_EXCEPTION", "NOT_COORDINATOR", "NOT_ENOUGH_REPLICAS",
        "NOT_ENOUGH_REPLICAS_AFTER_APPEND", "NOT_LEADER_FOR_PARTITION",
        "OUT_OF_ORDER_SEQUENCE_NUMBER", "PRODUCER_FENCED", "REPLICA_NOT_AVAILABLE",
        "REQUEST_TIMED_OUT", "SASL_AUTHENTICATION_FAILED", "SECURITY_DISABLED",
        "THROTTLING_QUOTA_EXCEEDED", "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
        "TRANSACTION_ABORTABLE", "TRANSACTION_COORDINATOR_FENCED", "UNKNOWN_LEADER_EPOCH",
        "UNKNOWN_PRODUCER_ID",
        "UNSUPPORTED_COMPRESSION_TYPE", "UNSUPPORTED_FOR_MESSAGE_FORMAT",
        "UNSUPPORTED_SASL_MECHANISM", "UNSUPPORTED_VERSION",
        "_ALL_BROKERS_DOWN", "_AUTHENTICATION", "_CRIT_SYS_RESOURCE", "_DESTROY", "_FAIL",
        "_FATAL", "_FENCED", "_ISR_INSUFF", "_MSG_TIMED_OUT", "_RESOLVE", "_RETRY",
        "_SSL", "_STATE", "_TIMED_OUT", "_TIMED_OUT_QUEUE", "_TRANSPORT",
        "_UNSUPPORTED_FEATURE",
    },
    Scope.DESTINATION: {
        "INCONSISTENT_TOPIC_ID", "TOPIC_AUTHORIZATION_FAILED", "UNKNOWN_TOPIC_ID",
        "UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_PARTITION", "_UNKNOWN_TOPIC",
    },
    Scope.INVALID_DESTINATION: {"TOPIC_EXCEPTION"},
    Scope.EVENT: {
        "INVALID_MSG_SIZE", "INVALID_RECORD", "INVALID_TIMESTAMP", "MSG_SIZE_TOO_LARGE",
        "RECORD_LIST_TOO_LARGE",
    },
})  # fmt: skip
"""By the name of the error."""

BEING_MADE: Final = frozenset({"LEADER_NOT_AVAILABLE", "UNKNOWN_TOPIC_OR_PART"})
"""Errors for a topic that is being created, and for one that will never be."""

COORDINATOR_MOVES: Final = frozenset({
    "COORDINATOR_LOAD_IN_PROGRESS", "COORDINATOR_NOT_AVAILABLE", "NOT_COORDINATOR",
    "UNSTABLE_OFFSET_COMMIT", "_TRANSPORT", "_WAIT_COORD",
})  # fmt: skip
"""Errors for an offset that will be known soon, as while its transaction is being completed."""


def is_about_records(error: Any) -> bool:
    """Return True if an error is about one of the records that were sent together."""
    return ERRORS.scope(error.name()) in (Scope.ATTEMPT, Scope.EVENT)


def describe(error: Any) -> str:
    """Return the name of librdkafka's error and what it says; other errors as they are."""
    return f"{error.name()}: {error.str()}" if hasattr(error, "name") else str(error)
