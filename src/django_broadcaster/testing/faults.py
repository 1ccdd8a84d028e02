"""The faults that a backend survives, as tests that every backend with a server runs.

    class TestPigeonFaults(BackendFaultContract):
        excluded = {Fault.FULL: "a loft has no limit"}

        def make_backend(self, **options):
            return PigeonBackend(loft=self.loft.address, **options)

        def read_back(self):
            return [json.loads(event) for event in self.loft.events()]

        def stopped(self):
            return self.loft.closed()

Each fault has a hook, a context manager in which the server has that fault. A backend implements
the hooks or says in `excluded` why its server cannot have the fault.
"""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum
from typing import Any, ClassVar, Literal

import pytest

from django_broadcaster.backends import Message, MessageBackend, Outcome
from django_broadcaster.exceptions import (
    BackendUnavailable,
    DeliveryError,
    Held,
    Rejected,
    TransientError,
)

from .contract import kinds_of, make_message
from .fault_tests import SECONDS, FaultTests, about, eventually


class Fault(StrEnum):
    """Faults of a server, in the order of the tests."""

    RESTART = "server stopped and started under load"
    CUT = "connection cut in the middle of a batch"
    TOO_LARGE = "message too large"
    MISSING = "destination missing"
    MISSING_FOR_ONE = "destination of one event missing"
    CREDENTIALS = "wrong credentials"
    TLS = "wrong TLS"
    FROZEN = "server slower than the timeout"
    FULL = "server full"
    INTERRUPT = "batch interrupted by a signal"


class Interrupted(BaseException):
    """Raised by the signal that interrupts a batch."""


class BackendFaultContract(FaultTests):
    """Subclass it as `TestSomethingFaults`, and write the hooks or `excluded`.

    Each test has the destination to itself: what `read_back` returns was delivered by this test.
    After each fault, the tests read the server back. Every acknowledged event is there, nothing is
    lost, and the first arrivals of each key are in order.
    """

    outage_errors: ClassVar[tuple[type[DeliveryError], ...]] = (BackendUnavailable,)
    """The errors that an event may have during an outage.

    With TransientError, an outage may cost an event one retry, and never a second one.
    """

    stores_once: ClassVar[bool] = False
    """Whether the server drops an event that is sent again, as by its id."""

    missing_for_one_error: ClassVar[type[DeliveryError]] = TransientError
    """The error of an event whose own destination is missing."""

    full_error: ClassVar[type[DeliveryError]] = BackendUnavailable
    """The error of an event that a full server refuses."""

    healthy_despite: ClassVar[Collection[Fault]] = ()
    """Faults in which `health_check` may be True: it does not ask the server that much."""

    restarts: ClassVar[int] = 1
    """How often the server is stopped under load."""

    timeout_options: ClassVar[Mapping[str, Any]] = {"timeout": 0.5}
    """The options of a backend that gives up a silent server soon."""

    patience: ClassVar[float] = 20.0
    """The longest, in seconds, that two batches and a health check may take with those options."""

    secret: ClassVar[str] = "hush-hush"  # noqa: S105  # it protects nothing
    """A wrong password, for `credentials`. No error may contain it."""

    alias: ClassVar[str] = "contract"

    # --- Hooks -------------------------------------------------------------------------------

    def make_backend(self, **options: Any) -> MessageBackend:
        """Return a new backend, not opened. `options` has `alias`, and whatever a test needs.

        Hooks call `new_backend` instead, whose backends are closed after the test.
        """
        raise NotImplementedError

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        """Return what arrived in this test, in order of arrival, as mappings with the `id`."""
        raise NotImplementedError

    def stopped(self) -> AbstractContextManager[object]:
        """Return a context manager in which the server is stopped. After it, the server is up."""
        raise NotImplementedError

    def connection_cut(
        self, direction: Literal["request", "reply"], after: int
    ) -> AbstractContextManager[object]:
        """Return a context manager that cuts the connection after `after` further bytes.

        Args:
            direction: Whether the bytes go to the server, or come back from it.
            after: The number of bytes.
        """
        raise NotImplementedError

    def size_limited(self, case: str) -> AbstractContextManager[int]:
        """Return a context manager in which the server refuses events over a size.

        Its value is the number of bytes of data that are too many.
        """
        raise NotImplementedError

    def destination_missing(self, case: str) -> AbstractContextManager[MessageBackend]:
        """Return a context manager in which a backend's destination is missing.

        Its value is the backend. After the context, the destination is there.
        """
        raise NotImplementedError

    def missing_for_one(self, case: str) -> Mapping[str, Any]:
        """Return the `publisher_config` of an event whose own destination is missing."""
        raise NotImplementedError

    def credentials(self, case: str | None) -> AbstractContextManager[MessageBackend]:
        """Return a context manager whose value is a backend of a server that wants credentials.

        They are wrong in that way, with `secret` as the password, or right for None.
        """
        raise NotImplementedError

    def tls(self, case: str | None) -> AbstractContextManager[MessageBackend]:
        """Return a context manager whose value is a backend of a server that speaks TLS.

        The options for TLS are wrong in that way, or right for None.
        """
        raise NotImplementedError

    def frozen(self) -> AbstractContextManager[object]:
        """Return a context manager in which the server takes connections and answers nothing."""
        raise NotImplementedError

    def full(self, case: str) -> AbstractContextManager[MessageBackend]:
        """Return a context manager in which the server is full, or soon will be.

        Its value is a backend. After the context, the server has room.
        """
        raise NotImplementedError

    # --- For hooks ---------------------------------------------------------------------------

    def new_backend(self, **options: Any) -> MessageBackend:
        """Return a backend of `make_backend` that is closed after the test."""
        backend = self.make_backend(**{"alias": self.alias, **options})
        self.closed_after_test(backend.close)
        return backend

    # --- Stopped, cut off, frozen ------------------------------------------------------------

    @about(Fault.RESTART)
    def test_server_stopped_and_started_under_load(self) -> None:
        """Nothing acknowledged is lost, each key is in order, and an outage costs one retry."""
        backend = self.new_backend(**self.timeout_options)
        sent: list[Message] = []
        failures: list[None] = []
        spent: Counter[str] = Counter()
        is_over = threading.Event()

        def stop_and_start() -> None:
            for _ in range(self.restarts):
                enough = len(sent) + 100
                eventually(lambda: len(sent) >= enough or is_over.is_set(), "load")  # noqa: B023
                known = len(failures)
                with self.stopped():
                    eventually(lambda: len(failures) > known or is_over.is_set(), "failure")  # noqa: B023

        with ThreadPoolExecutor(1) as pool:
            outage = pool.submit(stop_and_start)
            try:
                while not outage.done() or len(sent) < 500:
                    batch = _messages(50, keys=5)
                    spent += self._deliver(backend, batch, lambda: failures.append(None))
                    sent += batch
            finally:
                is_over.set()
            outage.result()
        assert max(spent.values(), default=0) <= self.restarts
        self._assert_arrived(sent)

    @pytest.mark.parametrize(
        ("direction", "part"),
        [("request", 0.0), ("request", 0.3), ("request", 0.99), ("reply", 0), ("reply", 5)],
    )
    @about(Fault.CUT)
    def test_connection_cut_in_a_batch(
        self, direction: Literal["request", "reply"], part: float
    ) -> None:
        """Everything acknowledged has arrived. Sent again, the rest arrives after it."""
        backend = self.new_backend(**self.timeout_options)
        first, messages = _messages(1), _messages(100, keys=10)
        self._deliver(backend, first)
        size = sum(len(message.to_json()) for message in messages)
        after = int(part * size) if direction == "request" else int(part)
        with self.connection_cut(direction, after):
            outcomes = self._send(backend, messages)
        assert any(outcomes)
        self._assert_outage(outcomes)
        assert _ids(_acknowledged(messages, outcomes)) <= set(self._read_ids())
        self._deliver(backend, _left(messages, outcomes))
        self._assert_arrived(first + messages)

    @about(Fault.FROZEN)
    def test_frozen_server_is_unavailable_after_the_timeout(self) -> None:
        """The timeout ends the wait. A late answer is not taken for one to the next batch."""
        opened, fresh = (self.new_backend(**self.timeout_options) for _ in range(2))
        first, frozen, later = _messages(1), _messages(20, keys=3), _messages(20, keys=3)
        self._deliver(opened, first)
        with self.frozen():
            began = time.monotonic()
            for backend in (opened, opened, fresh):
                self._assert_all_wait(backend, frozen)
            self._assert_unhealthy(opened, Fault.FROZEN)
            assert time.monotonic() - began < self.patience
        self._deliver(opened, frozen)
        self._deliver(fresh, later)
        self._assert_arrived(first + frozen + later)

    @about(Fault.INTERRUPT)
    def test_interrupted_batch_leaves_nothing_behind(self) -> None:
        """The answers of an interrupted batch are not taken for those of the next one."""
        backend = self.new_backend()
        first, messages, good = _messages(1), _messages(20, keys=3), _messages(2)
        self._deliver(backend, first)
        with self.frozen(), pytest.raises(Interrupted), _interrupted(after=0.2):
            self._send(backend, messages)
        following: list[Message] = good[:1]
        kinds: list[type[DeliveryError] | None] = [None]
        if Fault.MISSING_FOR_ONE not in self.excluded:
            following.append(make_message(config=self.missing_for_one(self._one_case())))
            kinds.append(self.missing_for_one_error)
        outcomes = self._answered(backend, following + good[1:])
        assert kinds_of(outcomes) == [*kinds, None]
        self._deliver(backend, messages)
        self._assert_arrived(first + good + messages)

    # --- One event at fault ------------------------------------------------------------------

    @about(Fault.TOO_LARGE)
    def test_message_too_large_is_rejected_alone(self, case: str) -> None:
        """An event over the server's limit is rejected and holds its key; others are delivered."""
        keys = ["a", "a", "a", "a", "b", "b", "", "", "c"]
        kinds = [None, None, Rejected, Held, Rejected, Held, Rejected, None, None]
        with self.size_limited(case) as size:
            messages = [
                make_message(data="x" * size if kind is Rejected else n, partition_key=key)
                for n, (key, kind) in enumerate(zip(keys, kinds, strict=True))
            ]
            outcomes = self._send(self.new_backend(), messages)
            assert kinds_of(outcomes) == kinds
            self._assert_arrived(_acknowledged(messages, outcomes))

    @about(Fault.MISSING_FOR_ONE)
    def test_missing_destination_of_one_event_stops_its_key_only(self, case: str) -> None:
        """The event fails, later events of its key are held, and others are delivered."""
        messages = [make_message(data=n, partition_key=key) for n, key in enumerate("aaaab")]
        messages[1].config = self.missing_for_one(case)
        outcomes = self._send(self.new_backend(), messages)
        assert kinds_of(outcomes) == [None, self.missing_for_one_error, Held, Held, None]
        self._assert_arrived(_acknowledged(messages, outcomes))

    # --- The server refuses everything -------------------------------------------------------

    @about(Fault.MISSING)
    def test_missing_destination_is_unavailable(self, case: str) -> None:
        """Everything waits, and is delivered when the destination is there."""
        messages = _messages(20, keys=3)
        with self.destination_missing(case) as backend:
            self._assert_all_wait(backend, messages)
        self._deliver(backend, messages)
        self._assert_arrived(messages)

    @about(Fault.CREDENTIALS)
    def test_wrong_credentials_are_unavailable(self, case: str) -> None:
        """Wrong credentials cost no event, and no error contains them."""
        with self.credentials(case) as backend:
            self._assert_all_wait(backend, _messages(2))
            self._assert_unhealthy(backend, Fault.CREDENTIALS)

    @about(Fault.CREDENTIALS)
    def test_right_credentials_deliver(self) -> None:
        """With the right credentials, the same server takes events."""
        with self.credentials(None) as backend:
            self._assert_works(backend, _messages(2))

    @about(Fault.TLS)
    def test_wrong_tls_is_unavailable(self, case: str) -> None:
        """TLS that fails costs no event, and a connection without TLS never replaces it."""
        with self.tls(case) as backend:
            self._assert_all_wait(backend, _messages(2))
            self._assert_unhealthy(backend, Fault.TLS)

    @about(Fault.TLS)
    def test_right_tls_delivers(self) -> None:
        """With the right certificates, small and large batches are delivered over TLS."""
        with self.tls(None) as backend:
            self._assert_works(backend, _messages(2))
            self._assert_works(backend, [make_message(data="x" * 20_000) for _ in range(50)])

    @about(Fault.FULL)
    def test_full_server_is_unavailable(self, case: str) -> None:
        """A full server keeps what it acknowledged, and delivery goes on when it has room."""
        # Small events between large ones: a server without room for these may take those.
        messages = [
            make_message(data="x" * (2000 if n % 3 else 1), partition_key=f"key-{n % 5}")
            for n in range(600)
        ]
        outcomes: list[Outcome] = []
        with self.full(case) as backend:
            while not any(outcomes):
                assert len(outcomes) < len(messages), "the server is never full"
                outcomes += self._send(backend, messages[len(outcomes) :][:50])
        sent = messages[: len(outcomes)]
        assert set(kinds_of(outcomes)) <= {None, self.full_error, Held}
        assert _ids(_acknowledged(sent, outcomes)) <= set(self._read_ids())
        self._deliver(backend, _left(sent, outcomes))
        self._assert_arrived(sent)

    # --- Helpers -----------------------------------------------------------------------------

    def _one_case(self) -> str:
        return self.cases.get(Fault.MISSING_FOR_ONE, ("default",))[0]

    def _send(self, backend: MessageBackend, messages: Sequence[Message]) -> list[Outcome]:
        """Send a batch. A batch as a whole may also raise that the server is away."""
        try:
            return backend.send_batch(messages)
        except BackendUnavailable as error:
            return [error] * len(messages)

    def _deliver(
        self,
        backend: MessageBackend,
        messages: Sequence[Message],
        on_failure: Callable[[], None] = lambda: None,
    ) -> Counter[str]:
        """Send until everything is acknowledged, as a relay does; return the retries by event."""
        spent: Counter[str] = Counter()
        deadline = time.monotonic() + SECONDS
        while messages:
            outcomes = self._send(backend, messages)
            self._assert_outage(outcomes)
            for message, outcome in zip(messages, outcomes, strict=True):
                spent[message.event_id] += getattr(outcome, "spends_retry", False) is True
            messages = _left(messages, outcomes)
            if messages:
                on_failure()
                assert time.monotonic() < deadline, f"not delivered: {next(filter(None, outcomes))}"
                time.sleep(0.01)
        return spent

    def _answered(self, backend: MessageBackend, messages: Sequence[Message]) -> list[Outcome]:
        """Send until the server answers, which may take a moment after a fault."""
        deadline = time.monotonic() + SECONDS
        while BackendUnavailable in kinds_of(outcomes := self._send(backend, messages)):
            assert time.monotonic() < deadline, f"no answer: {outcomes[0]}"
            time.sleep(0.01)
        return outcomes

    def _read_ids(self) -> list[str]:
        return [str(each["id"]) for each in self.read_back()]

    def _assert_outage(self, outcomes: Sequence[Outcome]) -> None:
        unexpected = [each for each in outcomes if each and not isinstance(each, self._allowed())]
        assert unexpected == []

    def _allowed(self) -> tuple[type[DeliveryError], ...]:
        held = (Held,) if TransientError in self.outage_errors else ()
        return (*self.outage_errors, *held)

    def _assert_all_wait(self, backend: MessageBackend, messages: Sequence[Message]) -> None:
        outcomes = self._send(backend, messages)
        assert {BackendUnavailable} <= set(kinds_of(outcomes)) <= {BackendUnavailable, Held}
        assert self.secret not in "".join(traceback.format_exception(outcomes[0]))

    def _assert_unhealthy(self, backend: MessageBackend, fault: Fault) -> None:
        if fault not in self.healthy_despite:
            assert backend.health_check() is False

    def _assert_works(self, backend: MessageBackend, messages: Sequence[Message]) -> None:
        assert kinds_of(self._send(backend, messages)) == [None] * len(messages)
        assert backend.health_check() is True

    def _assert_arrived(self, messages: Sequence[Message]) -> None:
        """Assert that these events and no others arrived, the first times of each key in order."""
        stored = self._read_ids()
        first = list(dict.fromkeys(stored))
        assert set(first) == _ids(messages)
        for key in {message.partition_key for message in messages} - {""}:
            mine = [message.event_id for message in messages if message.partition_key == key]
            assert [each for each in first if each in set(mine)] == mine
        if self.stores_once:
            assert len(stored) == len(first)


def _messages(count: int, *, keys: int = 0) -> list[Message]:
    """Return events that take turns at that many keys, and at none."""
    return [
        make_message(data=n, partition_key=f"key-{n % (keys + 1)}" if n % (keys + 1) else "")
        for n in range(count)
    ]


def _acknowledged(messages: Sequence[Message], outcomes: Sequence[Outcome]) -> list[Message]:
    return [m for m, outcome in zip(messages, outcomes, strict=True) if outcome is None]


def _left(messages: Sequence[Message], outcomes: Sequence[Outcome]) -> list[Message]:
    return [m for m, outcome in zip(messages, outcomes, strict=True) if outcome is not None]


def _ids(messages: Sequence[Message]) -> set[str]:
    return {message.event_id for message in messages}


@contextmanager
def _interrupted(*, after: float) -> Iterator[None]:
    """Raise Interrupted in the main thread after `after` seconds."""

    def interrupt(*_: object) -> None:
        raise Interrupted

    previous = signal.signal(signal.SIGALRM, interrupt)
    timer = signal.setitimer(signal.ITIMER_REAL, after)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, previous)
