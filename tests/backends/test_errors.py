"""What an error of a broker is about, and how an error of its client is raised."""

from __future__ import annotations

import pytest

from django_broadcaster.backends.errors import ErrorTable, Scope, mapped, unavailable
from django_broadcaster.exceptions import (
    BackendUnavailable,
    DeliveryError,
    MissingClient,
    Rejected,
    TransientError,
)


@pytest.mark.parametrize(
    ("scope", "shared", "own"),
    [
        (Scope.BROKER, BackendUnavailable, BackendUnavailable),
        (Scope.DESTINATION, BackendUnavailable, TransientError),
        (Scope.INVALID_DESTINATION, BackendUnavailable, Rejected),
        (Scope.ATTEMPT, TransientError, TransientError),
        (Scope.EVENT, Rejected, Rejected),
    ],
)
def test_destination_of_one_event_stops_no_other(
    scope: Scope, shared: type[DeliveryError], own: type[DeliveryError]
) -> None:
    """A shared destination that fails is an outage; one that an event named is its own failure."""
    cause = OSError("no route")
    for is_shared, kind in ((True, shared), (False, own)):
        error = scope.error("it failed", shared=is_shared, cause=cause, retry_after=3)
        assert type(error) is kind
        assert (str(error), error.__cause__, error.retry_after) == ("it failed", cause, 3)


def test_code_that_is_not_in_the_table_has_the_default_scope() -> None:
    """A table has the scope of each of its codes, and one for all others."""
    table = ErrorTable({Scope.EVENT: {406}, Scope.BROKER: {320, 541}}, default=Scope.DESTINATION)
    assert [table.scope(code) for code in (406, 320, 541)] == [
        Scope.EVENT,
        Scope.BROKER,
        Scope.BROKER,
    ]
    assert table.scope(404) is Scope.DESTINATION


def test_error_of_a_client_is_raised_as_what_it_means() -> None:
    """The client's own error is the cause; one that has a meaning already stays as it is."""
    failed = OSError("reset")

    def meaning(error: Exception) -> Exception:
        return unavailable(f"broker: {error}")

    with pytest.raises(BackendUnavailable, match="broker: reset") as caught, mapped(meaning):
        raise failed
    assert caught.value.__cause__ is failed
    for known in (Rejected("too large"), MissingClient("amqp", "rabbitmq"), KeyboardInterrupt()):
        with pytest.raises(type(known)) as raised, mapped(lambda error: AssertionError()):
            raise known
        assert raised.value is known
