"""Hosts of a test: network namespaces with addresses of their own, which a test cuts off.

A network is a bridge. This machine, where the servers run, has the address 1 in each network; the
hosts have 11, 12 and so on. A cut drops packets and tells nobody, as a broken switch does:

- both directions: the cable to the bridge is pulled (the port is down);
- one direction: the sender has the hardware address of nobody for the receiver.

Needs Linux and root.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal

import pytest

NOBODY = "02:00:00:00:00:01"
"""A hardware address that no interface has."""

NETWORKS = 100

Direction = Literal["both", "requests", "replies"]


class Network:
    """A network with this machine at `address`; `number` makes its addresses unlike others'.

    The addresses are of a block that is reserved for measuring (RFC 2544), so no real host has one.
    """

    def __init__(self, name: str, block: int, number: int) -> None:
        self.name = name
        self.bridge = f"bc{number}{name[:6]}"
        self._prefix = f"198.{block}.{number}"
        self.address = self.at(1)

    def at(self, place: int) -> str:
        """Return the address of a place in the network."""
        return f"{self._prefix}.{place}"

    def make(self) -> None:
        """Make it; raises CalledProcessError if another test has one with this number."""
        _ip("link", "add", self.bridge, "type", "bridge")
        _ip("address", "add", f"{self.address}/24", "dev", self.bridge)
        _ip("link", "set", self.bridge, "up")

    def remove(self) -> None:
        """Remove it."""
        _ip("link", "delete", self.bridge)


class Host:
    """A host in networks. `prefix` is the beginning of a command line that runs there."""

    def __init__(self, place: int, networks: Sequence[Network]) -> None:
        self.name = f"{networks[0].bridge}-{place}"
        self.prefix = ("nsenter", f"--net=/run/netns/{self.name}", "--")
        self._place = place
        self._networks = networks

    def make(self) -> None:
        """Make it, and connect it with all networks."""
        _ip("netns", "add", self.name)
        _ip("link", "set", "lo", "up", host=self)
        for network in self._networks:
            port = self._port(network)
            _ip(*f"link add {port} type veth peer name {network.name} netns {self.name}".split())
            _ip("link", "set", port, "master", network.bridge, "up")
            address = f"{network.at(self._place)}/24"
            _ip("address", "add", address, "dev", network.name, host=self)
            _ip("link", "set", network.name, "up", host=self)

    def remove(self) -> None:
        """Remove it; its processes must have ended."""
        _ip("netns", "delete", self.name)

    @contextmanager
    def cut_off(self, *networks: Network, direction: Direction = "both") -> Iterator[None]:
        """Drop the packets between this host and this machine, for the time of the block.

        `direction` is "both", "requests" (from the host) or "replies" (to the host).
        """
        with ExitStack() as cuts:
            for network in networks:
                cuts.enter_context(self._cut(network, direction))
            yield

    @contextmanager
    def _cut(self, network: Network, direction: Direction) -> Iterator[None]:
        if direction == "both":
            port = self._port(network)
            _ip("link", "set", port, "down")
            yield
            _ip("link", "set", port, "up")
        elif direction == "requests":
            with _misled(network.address, network.name, self):
                yield
        else:
            with _misled(network.at(self._place), network.bridge):
                yield

    def _port(self, network: Network) -> str:
        return f"{network.bridge}-{self._place}"


@contextmanager
def _misled(address: str, interface: str, host: Host | None = None) -> Iterator[None]:
    """Let packets for an address go to nobody."""
    neighbour = ("neighbour", "replace", address, "dev", interface, "lladdr", NOBODY)
    _ip(*neighbour, "nud", "permanent", host=host)
    yield
    _ip("neighbour", "delete", address, "dev", interface, host=host)


@contextmanager
def networks(*names: str) -> Iterator[list[Network]]:
    """Give networks for the time of the block; skips the test where the system permits none."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs Linux and root, for network namespaces")
    with ExitStack() as made:
        yield _networks(names, made)


def _networks(names: Sequence[str], made: ExitStack) -> list[Network]:
    for number in range(NETWORKS):
        found = [Network(name, 18 + block, number) for block, name in enumerate(names)]
        try:
            for network in found:
                network.make()
                made.callback(network.remove)
        except FileNotFoundError:
            pytest.skip("needs the program ip (Debian's iproute2), for network namespaces")
        except subprocess.CalledProcessError as error:
            if "File exists" not in error.stderr:
                pytest.skip(f"needs network namespaces: {error.stderr.strip()}")
            made.close()
        else:
            return found
    pytest.fail("all networks of tests exist; did a test leave them behind?")


@contextmanager
def host(place: int, networks: Sequence[Network]) -> Iterator[Host]:
    """Give a host for the time of the block."""
    made = Host(place, networks)
    try:
        made.make()
        yield made
    finally:
        made.remove()


def _ip(*words: str, host: Host | None = None) -> None:
    where = ("-n", host.name) if host else ()
    subprocess.run(["ip", *where, *words], check=True, capture_output=True, text=True)
