"""Which addresses a webhook may go to.

A URL that a customer chose must not lead into our own network, as to a database or a metadata
service. Its name says nothing, because it may resolve to any address, and to another one a moment
later. So the address of each socket is checked just before it is connected. No second look-up
could have another answer.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any, Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# https://www.iana.org/assignments/ipv6-address-space: what is given out as unicast to the world.
_UNICAST: Final = IPv6Network("2000::/3")
# RFC 6052: the address of an IPv4 host, as a network without IPv4 writes it.
_NAT64: Final = IPv6Network("64:ff9b::/96")


class AddressRefused(OSError):
    """A name leads to an address that is not allowed; nothing was connected.

    The text is the same for every address, so that errors do not reveal the network.
    """

    def __init__(self) -> None:
        super().__init__("the address is not public and not in 'allowed_networks'")


class AddressRules:
    """Lets public addresses through, and those that are named.

    allow_private: let every address through.
    allowed_networks: networks to let through, such as `10.1.0.0/16`; raises ValueError.
    """

    def __init__(self, *, allow_private: bool, allowed_networks: Sequence[str]) -> None:
        self._allow_all = allow_private
        self._allowed: list[Network] = [ip_network(text) for text in allowed_networks]

    def allows(self, host: str) -> bool:
        """Return True if a socket may be connected to an address, given as text."""
        if self._allow_all:
            return True
        try:
            address = _unwrapped(ip_address(host))
        except ValueError:  # a name, or a number that only a resolver takes for an address
            return False
        return is_public(address) or any(address in network for network in self._allowed)

    def socket_for(self, address_info: tuple[Any, ...]) -> socket.socket:
        """Return a socket for one result of `getaddrinfo`; raises AddressRefused."""
        family, kind, protocol, _, address = address_info
        if not self.allows(address[0]):
            raise AddressRefused
        return socket.socket(family=family, type=kind, proto=protocol)


def is_public(address: Address) -> bool:
    """Return True if an address belongs to one host somewhere in the internet.

    Python's `is_global` is true for multicast, and in IPv6 for much that nobody was given.
    """
    if isinstance(address, IPv6Address) and address not in _UNICAST:
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _unwrapped(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, if it stands for one."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
