"""How long a process that died has to wait for its successor."""

from __future__ import annotations

from django_broadcaster.relay.supervisor import STEADY_SECONDS, _Place


def die(place: _Place, at: float, times: int) -> list[float]:
    """Let a place's processes die as soon as they have started; return the pauses."""
    place.started_at = at
    return [place.died(at) for _ in range(times)]


def test_processes_that_keep_dying_are_started_ever_later() -> None:
    """The pause doubles up to half a minute, and stays there however long it goes on."""
    pauses = die(_Place(), at=100.0, times=5000)
    assert pauses[:7] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert set(pauses[7:]) == {30.0}


def test_a_process_that_lived_is_succeeded_at_once() -> None:
    """A death after a good while is a first one, so a rare crash never costs half a minute."""
    place = _Place()
    die(place, at=100.0, times=10)
    place.started_at = 200.0
    assert place.died(200.0 + STEADY_SECONDS) == 1.0
    assert place.start_at == 201.0 + STEADY_SECONDS
