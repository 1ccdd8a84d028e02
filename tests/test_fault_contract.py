"""BackendFaultContract itself: a backend that breaks a promise fails the test of that promise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from django_broadcaster.backends import Message, MessageBackend, Outcome
from django_broadcaster.backends.base import send_one_by_one
from django_broadcaster.exceptions import BackendUnavailable, Rejected, TransientError
from django_broadcaster.testing import BackendFaultContract

LIMIT = 100_000


class Server:
    """Keeps events in a list. `problem` is what every event meets, `room` how many it takes."""

    def __init__(self) -> None:
        self.events: list[Message] = []
        self.problem = ""
        self.room = 10**9

    def store(self, message: Message) -> None:
        """Take an event, or raise what is wrong."""
        if self.problem or len(self.events) >= self.room:
            raise BackendUnavailable(self.problem or "full")
        if message.config.get("place") == "missing":
            raise TransientError("no such place")
        if len(message.to_json()) > LIMIT:
            raise Rejected("too large")
        self.events.append(message)


class Honest(MessageBackend):
    """Keeps every promise."""

    config_keys = frozenset({"place"})

    def __init__(self, *, server: Server, timeout: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.server = server

    def send(self, message: Message) -> None:
        self.server.store(message)

    def health_check(self) -> bool:
        return not self.server.problem


class Loses(Honest):
    """Acknowledges what the server did not take."""

    def send_batch(self, messages: Sequence[Message]) -> list[Outcome]:
        outcomes = super().send_batch(messages)
        return [None if isinstance(each, BackendUnavailable) else each for each in outcomes]


class Overtakes(Honest):
    """Sends later events of a key after one has failed."""

    def send_batch(self, messages: Sequence[Message]) -> list[Outcome]:
        return [send_one_by_one([message], self.send)[0] for message in messages]


class Reverses(Honest):
    """Sends a batch from its end."""

    def send_batch(self, messages: Sequence[Message]) -> list[Outcome]:
        return super().send_batch(messages[::-1])[::-1]


class Blames(Honest):
    """Takes an outage for the fault of an event."""

    def send_batch(self, messages: Sequence[Message]) -> list[Outcome]:
        outcomes = super().send_batch(messages)
        return [TransientError("x") if each else None for each in outcomes]


class Faults(BackendFaultContract):
    """The hooks, for a server in memory."""

    backend: type[Honest] = Honest

    def __init__(self) -> None:
        self.server = Server()

    def make_backend(self, **options: Any) -> MessageBackend:
        return self.backend(server=self.server, **options)

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        return [{"id": each.event_id} for each in self.server.events]

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self.server.problem = "stopped"
        yield
        self.server.problem = ""

    @contextmanager
    def size_limited(self, case: str) -> Iterator[int]:
        yield LIMIT

    def missing_for_one(self, case: str) -> Mapping[str, Any]:
        return {"place": "missing"}

    @contextmanager
    def credentials(self, case: str | None) -> Iterator[MessageBackend]:
        self.server.problem = "refused" if case else ""
        yield self.new_backend()

    @contextmanager
    def full(self, case: str) -> Iterator[MessageBackend]:
        self.server.room = 75
        yield self.new_backend()
        self.server.room = 10**9


class Leaks(Faults):
    """Shows the password."""

    @contextmanager
    def credentials(self, case: str | None) -> Iterator[MessageBackend]:
        self.server.problem = f"refused: {self.secret}"
        yield self.new_backend()


CASE = {"case": "default"}
TESTS: Mapping[str, tuple[Callable[..., None], Mapping[str, str]]] = {
    "restart": (Faults.test_server_stopped_and_started_under_load, {}),
    "too large": (Faults.test_message_too_large_is_rejected_alone, CASE),
    "missing": (Faults.test_missing_destination_of_one_event_stops_its_key_only, CASE),
    "credentials": (Faults.test_wrong_credentials_are_unavailable, CASE),
    "full": (Faults.test_full_server_is_unavailable, CASE),
}


@pytest.mark.parametrize("test", TESTS)
def test_backend_that_keeps_its_promises_passes(test: str) -> None:
    """The contract asks for no more than the promises."""
    run, arguments = TESTS[test]
    run(Faults(), **arguments)


@pytest.mark.parametrize(
    ("backend", "test"),
    [
        (Loses, "full"),
        (Loses, "credentials"),
        (Overtakes, "too large"),
        (Overtakes, "missing"),
        (Reverses, "restart"),
        (Blames, "restart"),
        (Blames, "credentials"),
        (Blames, "too large"),
    ],
)
def test_backend_that_breaks_a_promise_fails(backend: type[Honest], test: str) -> None:
    """Lost or overtaken events, and the wrong kind of error, are found."""
    faults = Faults()
    faults.backend = backend  # type: ignore[misc]
    run, arguments = TESTS[test]
    with pytest.raises(AssertionError):
        run(faults, **arguments)


def test_password_in_an_error_fails() -> None:
    """A secret in the text of an error is found."""
    run, arguments = TESTS["credentials"]
    with pytest.raises(AssertionError):
        run(Leaks(), **arguments)


def test_excluded_fault_has_no_test() -> None:
    """What a server cannot have is not collected."""
    from django_broadcaster.testing import Fault

    class Some(Faults):
        excluded = {Fault.TLS: "no TLS"}

    assert not callable(Some.test_wrong_tls_is_unavailable)
    assert callable(Some.test_full_server_is_unavailable)
