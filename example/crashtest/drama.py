"""The steps of the demo: deliver, kill a worker, start another one, deliver all events."""

from __future__ import annotations

import time
from collections.abc import Callable

from django.conf import settings

from tools.restarts import CannotRestart, restart

from .destinations import TITLES
from .screen import Screen
from .services import Service
from .worker import WorkerFailed
from .writers import Writers

STALL = 30.0  # seconds without progress after which the demo stops waiting
SEARCH_SECONDS = 5.0  # seconds for which to search the worst time for the kill


class Drama:
    """Runs the steps with running workers and running writers.

    Without billing, there is no broker, and the shop handles its own events.
    """

    def __init__(
        self,
        shop: Service,
        billing: Service | None,
        writers: Writers,
        screen: Screen,
        batch_size: int,
    ) -> None:
        self._shop = shop
        self._services = [shop, billing] if billing else [shop]
        self._handling = billing or shop
        self._writers = writers
        self._screen = screen
        self._enough = max(1, batch_size // 10)

    def deliver_until(self, arrived: int) -> None:
        """Wait until this many events of the shop have arrived."""
        self._watch(lambda: self._handling.arrived() >= arrived)

    def kill_handling(self) -> None:
        """Send SIGKILL to the worker that runs the handlers, during a delivery.

        The worker is frozen and resumed until a large part of a batch has arrived but is not marked
        as delivered. That is the worst time for a crash.
        """
        service = self._handling
        self._freeze_when(service, service.unmarked, hint=service.arrived)
        in_flight, unmarked = service.in_flight(), service.unmarked()
        service.worker.kill()
        self._screen.say(
            f"SIGKILL to {service.worker.name} with {in_flight:,} events in flight: {unmarked:,} "
            "have arrived\n         but are not marked as delivered"
        )
        self._replace(service)

    def kill_publishing(self) -> None:
        """Send SIGKILL to the worker that publishes the shop's events to the broker."""
        service = self._shop
        self._freeze_when(service, service.in_flight, hint=service.in_flight)
        in_flight = service.in_flight()
        service.worker.kill()
        self._screen.say(f"SIGKILL to {service.worker.name} with {in_flight:,} events in flight")
        self._replace(service)

    def restart_broker(self, broker: str) -> None:
        """Stop the broker and start it again, unless it is somebody else's."""
        title = TITLES[broker]
        try:
            restart(broker)
        except CannotRestart as error:
            self._screen.say(f"{title} is not restarted: {error}")
        else:
            self._screen.say(f"{title} was stopped and started again")

    def deliver_all(self) -> None:
        """Wait until the writers have ended and all events are delivered; then stop the workers."""
        self._watch(self._over)
        seconds = max(service.worker.stop() for service in self._services)
        who = "the relay" if self._handling is self._shop else "both workers"
        self._screen.say(f"all events delivered; {who} stopped {seconds:.1f} s after SIGTERM")

    def _freeze_when(
        self, service: Service, at_stake: Callable[[], int], hint: Callable[[], int]
    ) -> None:
        """Freeze a worker while much is at stake, or after some seconds at any time of a delivery.

        The hint is a number that is quickly counted, and grows when that time comes.
        """
        deadline = time.monotonic() + SEARCH_SECONDS
        while True:
            service.worker.freeze()
            time.sleep(0.05)  # a statement that reached the database server ends there
            too_late = time.monotonic() > deadline
            if at_stake() >= self._enough or (too_late and service.in_flight()):
                return
            if self._over():
                raise WorkerFailed("all events were delivered before the kill; use more --orders")
            # Meanwhile the writers continue, so the resumed worker has a full batch.
            time.sleep(0.2)
            enough = hint() + self._enough
            service.worker.thaw()
            end = time.monotonic() + 0.2
            while hint() < enough and time.monotonic() < end:
                pass  # no sleep: an event is marked about a millisecond after it arrived

    def _replace(self, service: Service) -> None:
        """Start another worker, which has no data of the first one besides the database."""
        service.worker.start()
        lease = settings.OUTBOX_LEASE_SECONDS
        self._screen.say(f"another one started; the killed one's lease ends within {lease} s")

    def _over(self) -> bool:
        """Return True if the events of each service have arrived, or are dead letters."""
        if not self._writers.finished() or any(each.backlog() for each in self._services):
            return False
        lost = sum(each.failed() for each in self._services)
        receivers = reversed(self._services)  # the events of each go to the other one
        return all(
            receiver.arrived() + lost >= publisher.published()
            for publisher, receiver in zip(self._services, receivers, strict=True)
        )

    def _watch(self, done: Callable[[], bool]) -> None:
        seen, seen_at = None, time.monotonic()
        while not done():
            self._writers.finished()  # raises if one has failed
            for service in self._services:
                service.worker.check()
            numbers = self._numbers()
            self._screen.progress(numbers)
            if numbers != seen:
                seen, seen_at = numbers, time.monotonic()
            if time.monotonic() - seen_at > STALL:
                logs = "\n".join(service.worker.log_end() for service in self._services)
                raise WorkerFailed(f"no progress for {STALL:.0f} s:\n{logs}")
            time.sleep(0.05)

    def _numbers(self) -> dict[str, int]:
        # Count later stages first, so that no number exceeds that of an earlier stage.
        if self._handling is self._shop:
            backlog, arrived = self._shop.backlog(), self._shop.arrived()
            return {"committed": self._shop.published(), "arrived": arrived, "backlog": backlog}
        back, invoices = self._shop.arrived(), self._handling.published()
        arrived = self._handling.arrived()
        return {
            "committed": self._shop.published(),
            "at billing": arrived,
            "invoices": invoices,
            "back in the shop": back,
        }
