"""The options of the webhook backend, and the config of an event."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from django_broadcaster.backends import WebhookBackend
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    InvalidPublisherConfig,
    Rejected,
)
from django_broadcaster.testing import make_message
from tests.support.batches import kinds
from tests.support.webhook_server import WebhookServer

from .conftest import MakeBackend
from .helpers import HMAC, to

URL = "https://hooks.example/orders"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "url"),
        ({"url": ""}, "url"),
        ({"url": 1}, "url"),
        ({"url": "hooks.example"}, "url"),
        ({"url": "ftp://hooks.example"}, "url"),
        ({"url": "https:///orders"}, "url"),
        ({"url": "https://user:secret@hooks.example"}, "url"),
        ({"url": "https://hooks.example:secret"}, "url"),
        ({"url": "https://[::1/secret"}, "url"),
        ({"url": "https://hooks.example/ secret"}, "url"),
        ({"url": "https://hooks.example/\nsecret"}, "url"),
        ({"url": "https://hooks.example/" + "x" * 2000}, "url"),
        ({"url": URL, "allow_http": True}, "allow_http"),
        ({"url": URL, "secrets": HMAC}, "secrets"),
        ({"url": URL, "secrets": ["secret"]}, "secrets"),
        ({"url": URL, "secrets": {"a": "secret"}}, "secrets"),
        ({"url": URL, "secrets": [HMAC], "secrets_for": print}, "secrets"),
        ({"url": URL, "secrets_for": 1}, "secrets_for"),
        ({"url": URL, "headers": {"Content-Type": "secret"}}, "headers"),
        ({"url": URL, "headers": {"webhook-id": "secret"}}, "headers"),
        ({"url": URL, "headers": {"CE-Type": "secret"}}, "headers"),
        ({"url": URL, "headers": {"Host": "secret"}}, "headers"),
        ({"url": URL, "headers": {"a b": "secret"}}, "headers"),
        ({"url": URL, "headers": {"X-Key": "secret\r\nEvil: 1"}}, "headers"),
        ({"url": URL, "headers": {"X-Key": "sécret"}}, "headers"),
        ({"url": URL, "headers": {"X-Key": 1}}, "headers"),
        ({"url": URL, "headers": [("X-Key", "secret")]}, "headers"),
        ({"url": URL, "request_origin": "a b"}, "request_origin"),
        ({"url": URL, "request_origin": ""}, "request_origin"),
        ({"url": URL, "request_origin": "shop.example\r\nEvil: 1"}, "request_origin"),
        ({"url": URL, "handshake": True}, "handshake"),
        ({"url": URL, "request_origin": "shop.example", "handshake": 1}, "handshake"),
        ({"url": URL, "headers": {"WebHook-Request-Origin": "secret"}}, "headers"),
        ({"url": URL, "disable_after": 0}, "disable_after"),
        ({"url": URL, "max_in_flight": 0}, "max_in_flight"),
        ({"url": URL, "max_response_bytes": 0}, "max_response_bytes"),
        ({"url": URL, "allowed_networks": "10.0.0.0/8"}, "allowed_networks"),
        ({"url": URL, "allowed_networks": ["10.0.0.1/8"]}, "allowed_networks"),
        ({"url": URL, "allowed_networks": ["inside"]}, "allowed_networks"),
        ({"url": URL, "tls": {"key_file": "key.pem"}}, "tls"),
    ],
)
def test_wrong_option_is_named(options: dict[str, Any], named: str) -> None:
    """A wrong option is an error that names it and the alias, and repeats no secret."""
    with pytest.raises(BackendConfigurationError) as caught:
        WebhookBackend(alias="orders", **options)
    assert f"OUTBOX_PUBLISHERS['orders']['OPTIONS']['{named}']" in str(caught.value)
    assert "secret@" not in str(caught.value)
    assert "secret'" not in str(caught.value).replace("'secrets'", "")
    assert HMAC not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "config", "word"),
    [
        ({"url": URL}, {"url": URL}, "unknown key 'url'"),
        ({"event_urls": True}, {}, "'url' must be a URL"),
        ({"event_urls": True}, {"url": None}, "'url' must be a URL"),
        ({"event_urls": True, "url": URL}, {"url": ""}, "'url' must be a URL"),
        ({"event_urls": True}, {"url": "http://hooks.example"}, "https://"),
        ({"event_urls": True}, {"url": "file:///etc/passwd"}, "https://"),
        ({"event_urls": True, "allow_http": True}, {"url": "gopher://a"}, "http://"),
        ({"event_urls": True}, {"url": "https://me:key@hooks.example"}, "user name or password"),
        ({"event_urls": True}, {"url": URL, "secrets": []}, "unknown key 'secrets'"),
    ],
)
def test_wrong_config_of_an_event_is_named(
    make: MakeBackend, options: dict[str, Any], config: dict[str, Any], word: str
) -> None:
    """A `url` that an event may not have, or that is none, is refused by the publish call."""
    with pytest.raises(InvalidPublisherConfig, match=word) as caught:
        make(**options).validate_config(config)
    assert caught.value.backend == "default"
    assert "key@" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ({"url": URL}, {}),
        ({"url": URL, "event_urls": True}, {}),
        ({"event_urls": True}, {"url": URL}),
        ({"event_urls": True}, {"url": "https://bücher.example/ä?q=1#x"}),
        ({"event_urls": True, "allow_http": True}, {"url": "http://hooks.example:8080"}),
    ],
)
def test_config_that_can_work_is_accepted(
    make: MakeBackend, options: dict[str, Any], config: dict[str, Any]
) -> None:
    """An event goes to its own endpoint, or to the one of the settings."""
    make(**options).validate_config(config)


@pytest.mark.django_db
def test_event_goes_to_its_own_endpoint_or_to_the_common_one(
    make: MakeBackend, server: WebhookServer
) -> None:
    """Path and query of a URL are the endpoint's."""
    backend = make(url=f"{server.url}/common", event_urls=True, allow_http=True)
    backend.send(to(f"{server.url}/own/%e4/a%2Fb?key=%2F&x=a+b#fragment"))
    backend.send(to(f"{server.url}/own/ä"))
    backend.send(make_message(data=1))
    assert server.paths() == ["/own/%e4/a%2Fb?key=%2F&x=a+b", "/own/%C3%A4", "/common"]


@pytest.mark.django_db
def test_event_whose_endpoint_is_no_longer_allowed_is_rejected(
    make: MakeBackend, server: WebhookServer
) -> None:
    """An event may be older than the settings: it goes where they allow it now, or nowhere."""
    backend = make(event_urls=True)
    messages = [to(server.url), make_message(data=1)]
    assert kinds(backend.send_batch(messages)) == [Rejected, Rejected]
    assert not server.requests


def test_importing_and_making_loads_no_client() -> None:
    """aiohttp and cryptography are loaded at first use."""
    code = (
        "import sys; from django_broadcaster.backends import WebhookBackend as backend; "
        f"backend(alias='default', url='{URL}', secrets=['whsk_' + 'A' * 43]); "
        "sys.exit('aiohttp' in sys.modules or 'cryptography' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
