"""The acts: writers write, the relay delivers, it is killed, another takes over, all is counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from django.conf import settings

from django_broadcaster.models import OutboxEvent, OutboxEventStatus, OutboxRelay

from .arrivals import Destination
from .relay import RelayFailed, RelayProcess
from .screen import Screen
from .writers import Writers

KILL_AT = 0.35  # of all events
STALL = 30.0  # seconds without any progress after which we stop to wait
PICKY = 5.0  # seconds that we look for the worst moment to kill before we take a bad one


@dataclass(frozen=True)
class Scene:
    """What the outbox and the destination hold at one moment."""

    committed: int
    settled: int  # marked as published in the outbox
    arrived: int  # at the destination, repeated ones included
    failed: int

    @property
    def backlog(self) -> int:
        """What the outbox has still to deliver."""
        return self.committed - self.settled - self.failed


class Drama:
    """Plays with a relay that runs and writers that write."""

    def __init__(
        self,
        relay: RelayProcess,
        writers: Writers,
        destination: Destination,
        screen: Screen,
        batch_size: int,
    ) -> None:
        self._relay = relay
        self._writers = writers
        self._destination = destination
        self._screen = screen
        self._batch_size = batch_size

    def deliver_until(self, arrived: int) -> None:
        """Watch until so many events have arrived."""
        self._watch(lambda scene: scene.arrived >= arrived)

    def kill_at_work(self) -> None:
        """Send SIGKILL while a delivery is under way.

        The relay is frozen, looked at, and let go again until the look finds a good part of a
        batch at its destination and not yet marked as published: the worst moment there is.
        """
        picky_until = time.monotonic() + PICKY
        enough = max(1, self._batch_size // 5)
        while True:
            self._relay.freeze()
            scene = look(self._destination)
            unmarked, in_flight = scene.arrived - scene.settled, events_in_flight()
            if unmarked >= enough or (scene.backlog and time.monotonic() > picky_until):
                break
            if self._over(scene):
                raise RelayFailed("it was done before it could be killed; try more --orders")
            # While it stands still the writers go on, so it has a full batch when it is let go.
            time.sleep(0.2)
            self._relay.thaw()
            self._wait_for_arrivals(scene.arrived + enough)
        self._relay.kill()
        self._screen.say(
            f"SIGKILL: of {in_flight:,} events in the relay's hands {unmarked:,} have arrived, "
            "none is marked so"
        )

    def _wait_for_arrivals(self, arrived: int) -> None:
        """Return as soon as so many have arrived, in the middle of a batch; or after a while."""
        end = time.monotonic() + 0.1
        while self._destination.count() < arrived and time.monotonic() < end:
            pass  # not even a short sleep: from arrival to mark it takes a millisecond

    def replace_relay(self) -> None:
        """Start another relay, which knows nothing of the first but what the database holds."""
        self._relay.start()
        lease = settings.OUTBOX_LEASE_SECONDS
        self._screen.say(f"another relay started; the dead one's lease ends within {lease} s")

    def deliver_all(self) -> None:
        """Watch until the writers are done and nothing is left to deliver, then stop the relay."""
        self._watch(self._over)
        seconds = self._relay.stop()
        self._screen.say(
            f"nothing left to deliver; the relay stopped on SIGTERM in {seconds:.1f} s"
        )

    def _over(self, scene: Scene) -> bool:
        return self._writers.finished() and scene.backlog == 0

    def _watch(self, done: Callable[[Scene], bool]) -> None:
        seen, seen_at = None, time.monotonic()
        while True:
            self._relay.check()
            scene = look(self._destination)
            self._screen.progress(scene.committed, scene.arrived, scene.backlog)
            if done(scene):
                return
            if scene != seen:
                seen, seen_at = scene, time.monotonic()
            if time.monotonic() - seen_at > STALL:
                raise RelayFailed(f"nothing moved for {STALL:.0f} s:\n{self._relay.last_words()}")
            time.sleep(0.05)


def look(destination: Destination) -> Scene:
    """Return how things stand now."""
    events = OutboxEvent.objects
    # First what comes last, so that no number can be ahead of one that it follows from.
    failed = events.filter(status=OutboxEventStatus.FAILED).count()
    settled = events.filter(status=OutboxEventStatus.PUBLISHED).count()
    arrived = destination.count()
    return Scene(committed=events.count(), settled=settled, arrived=arrived, failed=failed)


def dead_letters() -> list[str]:
    """Return a line for each of the first events that were given up, with its error."""
    failed = OutboxEvent.objects.dead_letters().order_by("id")[:5]
    return [f"  given up: {event}: {event.last_error}" for event in failed]


def events_in_flight() -> int:
    """Return how many undelivered events stand in the delivery that the relay last started."""
    relay = OutboxRelay.objects.filter(in_flight_from__isnull=False).order_by("-id").first()
    if relay is None:
        return 0
    span = (relay.in_flight_from, relay.in_flight_to)
    pending = OutboxEvent.objects.filter(status=OutboxEventStatus.PENDING, id__range=span)
    return pending.count()
