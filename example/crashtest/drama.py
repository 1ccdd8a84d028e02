"""The steps of the demo: deliver, kill the relay, start another one, deliver all events."""

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
STALL = 30.0  # seconds without progress after which the demo fails
SEARCH_SECONDS = 5.0  # seconds for which to search the worst time for the kill


@dataclass(frozen=True)
class Scene:
    """The numbers of events in the outbox and at the destination at one time."""

    committed: int
    settled: int  # marked as delivered in the outbox
    arrived: int  # at the destination, including duplicates
    failed: int

    @property
    def backlog(self) -> int:
        """The number of undelivered events."""
        return self.committed - self.settled - self.failed


class Drama:
    """Runs the steps with a running relay and running writers."""

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
        """Wait until this many events have arrived."""
        self._watch(lambda scene: scene.arrived >= arrived)

    def kill_at_work(self) -> None:
        """Send SIGKILL during a delivery.

        The relay is frozen and resumed until a large part of a batch has arrived but is not marked
        as delivered. That is the worst time for a crash.
        """
        deadline = time.monotonic() + SEARCH_SECONDS
        enough = max(1, self._batch_size // 5)
        while True:
            self._relay.freeze()
            scene = look(self._destination)
            unmarked, in_flight = scene.arrived - scene.settled, events_in_flight()
            if unmarked >= enough or (scene.backlog and time.monotonic() > deadline):
                break
            if self._over(scene):
                raise RelayFailed("all events were delivered before the kill; use more --orders")
            # Meanwhile the writers continue, so the resumed relay has a full batch.
            time.sleep(0.2)
            self._relay.thaw()
            self._wait_for_arrivals(scene.arrived + enough)
        self._relay.kill()
        self._screen.say(
            f"SIGKILL with {in_flight:,} events in flight: {unmarked:,} have arrived but are not "
            "marked as delivered"
        )

    def _wait_for_arrivals(self, arrived: int) -> None:
        """Return once this many events have arrived, during a batch; or after 0.1 s."""
        end = time.monotonic() + 0.1
        while self._destination.count() < arrived and time.monotonic() < end:
            pass  # no sleep: an event is marked about a millisecond after it arrived

    def replace_relay(self) -> None:
        """Start another relay, which has no data of the first one besides the database."""
        self._relay.start()
        lease = settings.OUTBOX_LEASE_SECONDS
        self._screen.say(f"another relay started; the killed relay's lease ends within {lease} s")

    def deliver_all(self) -> None:
        """Wait until the writers have ended and all events are delivered; then stop the relay."""
        self._watch(self._over)
        seconds = self._relay.stop()
        self._screen.say(f"all events delivered; the relay stopped {seconds:.1f} s after SIGTERM")

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
                raise RelayFailed(f"no progress for {STALL:.0f} s:\n{self._relay.log_end()}")
            time.sleep(0.05)


def look(destination: Destination) -> Scene:
    """Return the current numbers of events."""
    events = OutboxEvent.objects
    # Count later stages first, so that no number exceeds that of an earlier stage.
    failed = events.filter(status=OutboxEventStatus.FAILED).count()
    settled = events.filter(status=OutboxEventStatus.PUBLISHED).count()
    arrived = destination.count()
    return Scene(committed=events.count(), settled=settled, arrived=arrived, failed=failed)


def dead_letters() -> list[str]:
    """Return a line for each of the first dead letters, with its error."""
    failed = OutboxEvent.objects.dead_letters().order_by("id")[:5]
    return [f"  dead letter: {event}: {event.last_error}" for event in failed]


def events_in_flight() -> int:
    """Return the number of undelivered events in the relay's last batch."""
    relay = OutboxRelay.objects.filter(in_flight_from__isnull=False).order_by("-id").first()
    if relay is None:
        return 0
    span = (relay.in_flight_from, relay.in_flight_to)
    pending = OutboxEvent.objects.filter(status=OutboxEventStatus.PENDING, id__range=span)
    return pending.count()
