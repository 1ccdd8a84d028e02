"""The meaning of errors of boto3, and of single entries of a batch, for the events.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html
https://docs.aws.amazon.com/sns/latest/api/API_PublishBatch.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django_broadcaster.exceptions import DeliveryError

from ..errors import ErrorTable, Scope, unavailable

_MISPLACED: Final = frozenset({
    "AccessDenied", "AccessDeniedException", "AuthorizationError", "InvalidAddress",
    "NonExistentQueue", "NotFound", "NotFoundException", "QueueDoesNotExist",
})  # fmt: skip
"""The destination is not there, or we may not write to it."""

DENIED: Final = frozenset({"AccessDenied", "AccessDeniedException", "AuthorizationError"})

STALE: Final = frozenset({
    "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidClientTokenId",
    "RequestExpired", "SignatureDoesNotMatch", "UnrecognizedClientException",
})  # fmt: skip
"""The credentials are not valid, or no longer: a new client looks for others."""

CALL_ERRORS: Final = ErrorTable(
    {
        Scope.DESTINATION: _MISPLACED,
        # Something in the request is wrong, so nothing of it is stored.
        Scope.EVENT: {
            "BatchRequestTooLong", "InvalidAttributeValue", "InvalidMessageContents",
            "InvalidParameter", "InvalidParameterValue", "ParamValidationError",
            "ParameterValueInvalid", "ValidationError", "ValidationException",
        },
    },
    default=Scope.BROKER,
)  # fmt: skip
"""For a call that failed as a whole."""

ENTRY_ERRORS: Final = ErrorTable({
    Scope.BROKER: _MISPLACED | STALE | {
        "OverLimit", "RequestThrottled", "ServiceUnavailable", "Throttled", "ThrottledException",
        "Throttling", "ThrottlingException", "TooManyRequestsException",
    },
})  # fmt: skip
"""For one entry of a call: what any other entry would meet, too."""

# Parameters that are the same for all messages.
_DESTINATION_PARAMETERS: Final = ("TopicArn", "QueueUrl", "Topic Name")


def code_of(error: Exception) -> str:
    """Return the error's code without the name of the service; empty if it has none."""
    return _short(_parts(error).get("Code", ""))


def is_about_credentials(error: Exception) -> bool:
    """Return True if credentials are missing or not valid."""
    name = type(error).__name__
    return code_of(error) in STALE or "Credential" in name or "Token" in name or "SSO" in name


def scope_of(error: Exception) -> Scope:
    """Return what the failure of a whole call is about."""
    if _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode") == 413:  # a proxy's
        return Scope.EVENT
    found = CALL_ERRORS.scope(code_of(error) or type(error).__name__)
    text = str(_parts(error).get("Message", ""))
    if found is Scope.EVENT and any(each in text for each in _DESTINATION_PARAMETERS):
        return Scope.DESTINATION
    return found


def failure_of_call(error: Exception, place: str, *, shared: bool) -> DeliveryError:
    """Return what the failure of a call means for each of its messages.

    Args:
        error: The error of boto3. If it is about a message, there was only one.
        place: The destination.
        shared: Whether it is the configured one, without which nothing can be delivered.
    """
    reason = f"AWS answered {code_of(error) or type(error).__name__}"
    text = f"{place}: {describe(error)}"
    return scope_of(error).error(text, shared=shared, cause=error, reason=reason)


def failure_of_entry(failed: Mapping[str, Any] | None, place: str) -> DeliveryError:
    """Return what it means that one entry is in `Failed`, or is not in the answer (None)."""
    if failed is None:
        return unavailable(f"{place}: the answer has no result for this message")
    code = str(failed.get("Code", ""))
    found = ENTRY_ERRORS.scope(_short(code))
    if code.upper().startswith("KMS"):
        found = Scope.BROKER
    elif found is Scope.ATTEMPT and failed.get("SenderFault"):
        found = Scope.EVENT
    text = f"{place}: {code}: {failed.get('Message') or 'no reason given'}"
    return found.error(text, reason=f"AWS answered {code}")


def _response(error: Exception) -> Mapping[str, Any]:
    """Return the parsed answer; an error without one has none, or None."""
    response = getattr(error, "response", None)
    return response if isinstance(response, Mapping) else {}


def _parts(error: Exception) -> Mapping[str, Any]:
    found: Mapping[str, Any] = _response(error).get("Error") or {}
    return found


def _short(code: object) -> str:
    return str(code).rpartition(".")[2]


def describe(error: Exception) -> str:
    """Return what happened, without the request of a call whose signature was wrong."""
    parts = _parts(error)
    if parts.get("Code"):
        # After the first line about a wrong signature comes the request, with its session token.
        message = str(parts.get("Message", "")).partition("\n")[0]
        return f"{_short(parts['Code'])}: {message}".rstrip(": ")
    return f"{type(error).__name__}: {error}"
