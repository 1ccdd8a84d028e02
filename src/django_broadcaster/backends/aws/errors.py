"""What an error of boto3, or of one entry of a batch, means for the events.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html
https://docs.aws.amazon.com/sns/latest/api/API_PublishBatch.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django_broadcaster.exceptions import (
    BackendUnavailable,
    DeliveryError,
    Rejected,
    TransientError,
)

# The request as a whole is refused because of something in it: the messages are to blame.
_BLAMES_MESSAGES: Final = frozenset({
    "BatchRequestTooLong", "InvalidAttributeValue", "InvalidMessageContents", "InvalidParameter",
    "InvalidParameterValue", "ParameterValueInvalid", "ValidationError", "ValidationException",
})  # fmt: skip
# ... unless it is one of these parameters, which are the same for all.
_DESTINATION_PARAMETERS: Final = ("TopicArn", "QueueUrl", "Topic Name")

MISPLACED: Final = frozenset({
    "AccessDenied", "AccessDeniedException", "AuthorizationError", "InvalidAddress",
    "NonExistentQueue", "NotFound", "NotFoundException", "QueueDoesNotExist",
})  # fmt: skip
"""The destination is not there, or we may not write to it."""

DENIED: Final = frozenset({"AccessDenied", "AccessDeniedException", "AuthorizationError"})

STALE: Final = frozenset({
    "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidClientTokenId",
    "RequestExpired", "SignatureDoesNotMatch", "UnrecognizedClientException",
})  # fmt: skip
"""The credentials are not valid, or no longer: they are to be looked up anew."""

_BUSY: Final = frozenset({
    "OverLimit", "RequestThrottled", "ServiceUnavailable", "Throttled", "ThrottledException",
    "Throttling", "ThrottlingException", "TooManyRequestsException",
})  # fmt: skip


def code_of(error: Exception) -> str:
    """Return the error's code without the name of the service; empty if it has none."""
    return _short(_parts(error).get("Code", ""))


def is_about_credentials(error: Exception) -> bool:
    """Tell whether credentials are missing or not valid."""
    name = type(error).__name__
    return code_of(error) in STALE or "Credential" in name or "Token" in name or "SSO" in name


def blames_messages(error: Exception) -> bool:
    """Tell whether a call failed because of one of its messages; nothing of it is stored then."""
    if type(error).__name__ == "ParamValidationError":
        return True
    if _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode") == 413:  # a proxy's
        return True
    text = str(_parts(error).get("Message", ""))
    is_ours = any(parameter in text for parameter in _DESTINATION_PARAMETERS)
    return code_of(error) in _BLAMES_MESSAGES and not is_ours


def misses_destination(error: Exception) -> bool:
    """Tell whether a call failed because of the queue or topic that it named."""
    text = str(_parts(error).get("Message", ""))
    named = any(parameter in text for parameter in _DESTINATION_PARAMETERS)
    return code_of(error) in MISPLACED or (code_of(error) in _BLAMES_MESSAGES and named)


def failure_of_call(error: Exception, place: str, *, everybodys: bool) -> DeliveryError:
    """Return what the failure of a call means for each of its messages.

    If messages may be to blame there is only one. `everybodys` says that the destination is the
    configured one: without it nothing can be delivered. An event that asked for a place of its
    own must not stop the others.
    """
    kind: type[DeliveryError] = BackendUnavailable
    if blames_messages(error):
        kind = Rejected
    elif misses_destination(error) and not everybodys:
        kind = TransientError
    failure = kind(f"{place}: {_describe(error)}")
    failure.__cause__ = error
    return failure


def failure_of_entry(failed: Mapping[str, Any] | None, place: str) -> DeliveryError:
    """Return what it means that one entry is in `Failed`, or is not in the answer (None)."""
    if failed is None:
        return BackendUnavailable(f"{place}: the answer does not say what became of it")
    code, kind = str(failed.get("Code", "")), TransientError
    text = f"{place}: {code}: {failed.get('Message') or 'no reason given'}"
    if code.upper().startswith("KMS") or _short(code) in _BUSY | MISPLACED | STALE:
        return BackendUnavailable(text)
    return Rejected(text) if failed.get("SenderFault") else kind(text)


def _response(error: Exception) -> Mapping[str, Any]:
    """Return the parsed answer; an error without one has none, or None."""
    response = getattr(error, "response", None)
    return response if isinstance(response, Mapping) else {}


def _parts(error: Exception) -> Mapping[str, Any]:
    found: Mapping[str, Any] = _response(error).get("Error") or {}
    return found


def _short(code: object) -> str:
    return str(code).rpartition(".")[2]


def _describe(error: Exception) -> str:
    parts = _parts(error)
    if parts.get("Code"):
        # Behind the first line about a wrong signature comes the request, with its session token.
        message = str(parts.get("Message", "")).partition("\n")[0]
        return f"{_short(parts['Code'])}: {message}".rstrip(": ")
    return f"{type(error).__name__}: {error}"
