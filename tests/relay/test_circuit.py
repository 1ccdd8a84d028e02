"""The circuit breaker: how much goes out while a broker is or was away."""

from __future__ import annotations

import pytest

from django_broadcaster.relay.circuit import Circuit


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock at some time."""
    return Clock()


@pytest.fixture
def circuit(clock: Clock) -> Circuit:
    """A circuit that pauses for 1 second first and for 4 at the most, and probes with 3 events."""
    return Circuit(initial=1.0, maximum=4.0, probe_size=3, clock=clock)


def test_everything_passes_while_the_broker_answers(circuit: Circuit) -> None:
    """A closed circuit lets any number through, at once."""
    circuit.succeeded()
    assert circuit.is_closed
    assert circuit.allowance(500) == 500
    assert circuit.seconds_left() == 0


def test_nothing_passes_during_the_pause(circuit: Circuit, clock: Clock) -> None:
    """An open circuit lets nothing through until its pause is over."""
    circuit.failed()
    assert not circuit.is_closed
    clock.now += 0.9
    assert circuit.allowance(500) == 0
    assert circuit.seconds_left() == pytest.approx(0.1)


def test_a_probe_passes_after_the_pause(circuit: Circuit, clock: Clock) -> None:
    """After the pause a few events may go, and no more than were wanted."""
    circuit.failed()
    clock.now += 1.0
    assert circuit.allowance(500) == 3
    assert circuit.allowance(2) == 2
    assert not circuit.is_closed


def test_pauses_grow_up_to_a_maximum(circuit: Circuit, clock: Clock) -> None:
    """Each probe that fails makes the next pause twice as long, but never longer than the most."""
    pauses = []
    for _ in range(5):
        circuit.failed()
        pauses.append(circuit.seconds_left())
        clock.now += pauses[-1]
    assert pauses == [1.0, 2.0, 4.0, 4.0, 4.0]


def test_pause_is_no_shorter_than_the_broker_wants(circuit: Circuit, clock: Clock) -> None:
    """A broker that asks to be left alone for longer gets it, and the next pause is as ever."""
    circuit.failed(at_least=60.0)
    assert circuit.seconds_left() == 60.0
    clock.now += 60.0
    assert circuit.allowance(500) == 3
    circuit.failed(at_least=0.5)
    assert circuit.seconds_left() == 4.0


def test_one_answer_closes_it(circuit: Circuit, clock: Clock) -> None:
    """A probe that was answered closes the circuit, and the next outage begins anew."""
    for _ in range(3):
        circuit.failed()
    clock.now += 4.0
    circuit.succeeded()
    assert circuit.is_closed
    assert circuit.allowance(500) == 500
    circuit.failed()
    assert circuit.seconds_left() == 1.0
