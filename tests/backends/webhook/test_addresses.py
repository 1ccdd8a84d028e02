"""Which addresses are connected to, and which are not."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest
import trustme

from django_broadcaster.backends.webhook.addresses import AddressRules
from django_broadcaster.exceptions import BackendUnavailable, Rejected
from django_broadcaster.testing import make_message
from tests.support.batches import kinds, numbers
from tests.support.webhook_server import Reply, WebhookServer, webhook_server

from .conftest import MakeBackend
from .helpers import to

pytestmark = pytest.mark.django_db

PRIVATE = [
    "127.0.0.1", "127.255.255.254", "0.0.0.1", "10.0.0.1", "172.16.0.1", "172.31.255.255",
    "192.168.1.1", "169.254.169.254", "100.64.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1",
    "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1",
    "2001::1", "2001:db8::1", "100::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0",
    "fec0::1", "ff02::1", "ff0e::1", "5f00::1",
    "localhost", "2130706433", "0x7f000001", "127.1", "0177.0.0.1", "", "1.1.1.1 ", "[::1]",
]  # fmt: skip
PUBLIC = [
    "1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "192.0.1.1", "223.255.255.255",
    "2606:4700:4700::1111", "2a00:1450:4001::1", "::ffff:8.8.8.8", "64:ff9b::808:808",
    "2002:808:808::1",
]  # fmt: skip


@pytest.mark.shows("private addresses refused, rebinding too")
@pytest.mark.parametrize("address", PRIVATE)
def test_address_that_is_not_public_is_refused(address: str) -> None:
    """Loopback, private, link-local, shared, reserved, multicast, in IPv4, IPv6 and in disguise."""
    assert not AddressRules(allow_private=False, allowed_networks=()).allows(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address_is_let_through(address: str) -> None:
    """Also where IPv6 wraps a public IPv4 address."""
    assert AddressRules(allow_private=False, allowed_networks=()).allows(address)


def test_named_network_is_let_through_and_no_other() -> None:
    """`allowed_networks` opens what it names, in IPv6 notation, too."""
    rules = AddressRules(allow_private=False, allowed_networks=["10.1.0.0/16", "fd00:1::/32"])
    allowed = ["10.1.2.3", "::ffff:10.1.2.3", "fd00:1::5", "1.1.1.1"]
    refused = ["10.2.0.1", "::ffff:10.2.0.1", "fd00:2::5", "127.0.0.1"]
    assert [each for each in (*allowed, *refused) if rules.allows(each)] == allowed


def test_endpoint_on_this_machine_is_refused_by_default(
    make: MakeBackend, server: WebhookServer
) -> None:
    """Nothing reaches it, nothing is lost, and the health check says so."""
    backend = make(url=server.url, allow_private=False)
    assert kinds(backend.send_batch(numbers(2))) == [BackendUnavailable] * 2
    assert backend.health_check() is False
    assert server.connections == 0


def test_event_that_names_a_private_address_is_rejected(
    make: MakeBackend, server: WebhookServer
) -> None:
    """It is a dead letter at once, and tells nobody which address it was."""
    backend = make(event_urls=True, allow_http=True, allow_private=False)
    for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"):
        (outcome,) = backend.send_batch([to(f"http://{host}:{server.port}/")])
        assert kinds([outcome]) == [Rejected], host
    assert "127.0.0.1:" not in str(backend.send_batch([to(f"http://localhost:{server.port}")])[0])
    assert server.connections == 0


def test_allowed_network_is_reached(make: MakeBackend, server: WebhookServer) -> None:
    """A network that is named in the settings is no secret place."""
    backend = make(url=server.url, allow_private=False, allowed_networks=["127.0.0.0/8"])
    assert backend.send_batch(numbers(2)) == [None, None]
    assert backend.health_check() is True


Names = Callable[..., None]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Decide what names resolve to: each look-up of a name gets the next list of addresses."""
    real = socket.getaddrinfo
    answers: dict[str, list[list[str]]] = {}

    def resolve(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if host not in answers:
            return real(host, port, *arguments, **options)
        addresses = answers[host].pop(0) if len(answers[host]) > 1 else answers[host][0]
        return [found for each in addresses for found in real(each, port, *arguments, **options)]

    def name(host: str, *lookups: list[str]) -> None:
        answers[host] = list(lookups)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return name


def test_name_that_leads_inside_is_refused(
    make: MakeBackend, server: WebhookServer, names: Names
) -> None:
    """It is the address that is judged, whatever the name."""
    names("hooks.example", ["127.0.0.1"])
    backend = make(event_urls=True, allow_http=True, allow_private=False)
    outcomes = backend.send_batch([to(f"http://hooks.example:{server.port}")])
    assert kinds(outcomes) == [Rejected]
    assert server.connections == 0


def test_name_with_addresses_inside_and_outside_leads_outside(
    make: MakeBackend, server: WebhookServer, names: Names
) -> None:
    """Addresses that are refused are skipped; 127.0.0.2 stands for a public one here."""
    names("hooks.example", ["127.0.0.1", "::1", "127.0.0.2"])
    with webhook_server(host="127.0.0.2", port=server.port) as outside:
        backend = make(
            url=f"http://hooks.example:{server.port}",
            allow_private=False,
            allowed_networks=["127.0.0.2/32"],
        )
        assert backend.send_batch(numbers(3)) == [None] * 3
        backend.close()
        assert len(outside.requests) == 3
    assert server.connections == 0


@pytest.mark.shows("private addresses refused, rebinding too")
def test_rebound_name_is_judged_by_the_address_that_is_connected(
    make: MakeBackend, server: WebhookServer, names: Names
) -> None:
    """A name that is public at the first look-up and private at the second gets nowhere."""
    names("hooks.example", ["192.0.2.1"], ["127.0.0.1"])
    backend = make(
        event_urls=True,
        allow_http=True,
        allow_private=False,
        allowed_networks=["192.0.2.0/24"],  # stands for a public address, where nobody answers
        connect_timeout=0.2,
    )
    url = f"http://hooks.example:{server.port}"
    backend.send_batch([to(url)])
    backend.close()  # and with it what its client remembers of names
    backend._pauses.succeeded(url)
    assert kinds(backend.send_batch([to(url)])) == [Rejected]
    assert server.connections == 0


@pytest.mark.shows("2xx only, `Retry-After`, redirects refused")
def test_redirect_inside_is_not_followed(make: MakeBackend, server: WebhookServer) -> None:
    """No status of 300 to 399 leads anywhere: the event was not delivered."""
    backend = make(url=f"{server.url}/hook")
    for status in (301, 302, 303, 307, 308):
        server.answer = lambda request, status=status: Reply(status, {"Location": "/inside"})
        assert kinds(backend.send_batch(numbers(1))) == [BackendUnavailable]
    assert set(server.paths()) == {"/hook"}


@pytest.fixture
def authority() -> trustme.CA:
    """A certificate authority of our own."""
    return trustme.CA()


def tls(authority: trustme.CA, *hosts: str) -> ssl.SSLContext:
    """A server's TLS for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*hosts).configure_cert(context)
    return context


def test_checked_address_gets_the_name_in_tls_and_host(
    make: MakeBackend, authority: trustme.CA, names: Names, tmp_path: Any
) -> None:
    """TLS asks for the name, its certificate is checked against it, and `Host` says it."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    names("hooks.example", ["127.0.0.1"])
    context = tls(authority, "hooks.example")
    asked: list[str | None] = []
    context.sni_callback = lambda connection, name, _: asked.append(name)
    with webhook_server(context) as server:
        backend = make(
            url=f"https://hooks.example:{server.port}/",
            tls={"ca_file": str(tmp_path / "ca.pem")},
            allow_private=False,
            allowed_networks=["127.0.0.1/32"],
        )
        assert backend.send_batch(numbers(3)) == [None] * 3
        backend.close()
        assert set(asked) == {"hooks.example"}
        assert {each.headers["host"] for each in server.requests} == {
            f"hooks.example:{server.port}"
        }


def test_missing_file_of_tls_is_an_outage(make: MakeBackend, server: WebhookServer) -> None:
    """A file that is not there loses nothing, and the error names the backend."""
    backend = make(url=server.url, tls={"ca_file": "/nowhere/ca.pem"})
    with pytest.raises(BackendUnavailable, match="'default'"):
        backend.send(make_message(data=1))
