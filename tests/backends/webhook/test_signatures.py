"""Signatures as a receiver verifies them, by the package of Standard Webhooks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import sys
import time
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from django_broadcaster.backends import WebhookBackend
from django_broadcaster.backends.webhook.signatures import Signer
from django_broadcaster.exceptions import (
    BackendConfigurationError,
    MissingClient,
    TransientError,
)
from django_broadcaster.testing import make_message
from tests.support.batches import kinds, numbers
from tests.support.webhook_server import Reply, Request, WebhookServer

from .conftest import MakeBackend
from .helpers import HMAC, OTHER_HMAC, to

pytestmark = pytest.mark.django_db

SEED = bytes(range(32))
PUBLIC = Ed25519PrivateKey.from_private_bytes(SEED).public_key()
ED25519 = "whsk_" + base64.b64encode(SEED).decode()
ED25519_LONG = "whsk_" + base64.b64encode(SEED + PUBLIC.public_bytes_raw()).decode()


def signatures(request: Request) -> list[tuple[str, bytes]]:
    """The versions and the bytes of a request's signatures."""
    parts = (each.split(",") for each in request.headers["webhook-signature"].split(" "))
    return [(version, base64.b64decode(text)) for version, text in parts]


def content(request: Request) -> bytes:
    """What is signed, by the words of the specification."""
    head = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}."
    return head.encode() + request.body


@pytest.mark.shows("signatures")
def test_vector_of_other_libraries() -> None:
    """The id, time, body and secret that libraries of other languages test with."""
    headers = Signer([HMAC]).headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@given(
    secret=st.binary(min_size=24, max_size=64),
    event_id=st.text(min_size=1, max_size=30).filter(lambda text: text.isprintable()),
    data=st.text(st.characters(codec="utf-8")),
)
def test_any_request_can_be_verified(secret: bytes, event_id: str, data: str) -> None:
    """Whatever the secret, the id and the body, a receiver finds the signature right."""
    body = json.dumps(data, ensure_ascii=False).encode()
    written = "whsec_" + base64.b64encode(secret).decode()
    headers = Signer([written]).headers(event_id, int(time.time()), body)
    assert Webhook(written).verify(body, headers) == data
    assert "." not in headers["webhook-id"]


@pytest.mark.shows("signatures")
@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_receiver_verifies_what_it_gets(
    make: MakeBackend, server: WebhookServer, mode: str
) -> None:
    """What came passes the receiver's own check; changed, or with another secret, it does not."""
    backend = make(url=server.url, secrets=[HMAC], content_mode=mode)
    before = int(time.time())
    message = make_message(data={"total": "19,50 €"}, partition_key="a")
    backend.send(message)
    (request,) = server.requests
    Webhook(HMAC).verify(request.body, request.headers)
    assert request.headers["webhook-id"] == message.event_id
    assert before <= int(request.headers["webhook-timestamp"]) <= time.time()
    with pytest.raises(WebhookVerificationError):
        Webhook(HMAC).verify(request.body + b" ", request.headers, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(OTHER_HMAC).verify(request.body, request.headers)


def test_bytes_are_signed_as_they_are(make: MakeBackend, server: WebhookServer) -> None:
    """A body that is no text is signed by its bytes."""
    backend = make(url=server.url, secrets=[HMAC], content_mode="binary")
    backend.send(make_message(data=b"\xff\x00", data_content_type="application/octet-stream"))
    (request,) = server.requests
    key = base64.b64decode(HMAC.removeprefix("whsec_"))
    expected = hmac.new(key, content(request), hashlib.sha256).digest()
    assert signatures(request) == [("v1", expected)]


@pytest.mark.shows("signatures")
@pytest.mark.parametrize("secret", [ED25519, ED25519_LONG])
def test_public_key_verifies(make: MakeBackend, server: WebhookServer, secret: str) -> None:
    """An ed25519 signature passes with the public key, for a seed and for a pair of keys."""
    make(url=server.url, secrets=[secret]).send(make_message(data=1))
    (request,) = server.requests
    ((version, signature),) = signatures(request)
    assert version == "v1a"
    PUBLIC.verify(signature, content(request))
    with pytest.raises(InvalidSignature):
        PUBLIC.verify(signature, content(request) + b" ")


@pytest.mark.shows("signatures")
def test_several_secrets_give_several_signatures(make: MakeBackend, server: WebhookServer) -> None:
    """While secrets change, whoever has the old or the new one can verify."""
    make(url=server.url, secrets=[OTHER_HMAC, HMAC, ED25519]).send(make_message(data=1))
    (request,) = server.requests
    for secret in (HMAC, OTHER_HMAC):
        assert Webhook(secret).verify(request.body, request.headers)
    assert [version for version, _ in signatures(request)] == ["v1", "v1", "v1a"]
    PUBLIC.verify(signatures(request)[2][1], content(request))


def test_repeated_event_has_its_id_and_a_new_time(
    make: MakeBackend, server: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt is signed anew for its own time, with the id of the event."""
    backend = make(url=server.url, secrets=[HMAC])
    message = make_message(data=1)
    now = time.time()
    for seconds in (-60, 60):
        monkeypatch.setattr(time, "time", lambda moment=now + seconds: moment)
        backend.send(message)
    monkeypatch.undo()
    first, second = server.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    times = [int(each.headers["webhook-timestamp"]) for each in (first, second)]
    assert times == [int(now - 60), int(now + 60)]
    for request in (first, second):
        Webhook(HMAC).verify(request.body, request.headers)


def test_without_secrets_nothing_is_signed(make: MakeBackend, server: WebhookServer) -> None:
    """The id and the time are there all the same."""
    make(url=server.url).send(make_message(data=1))
    (request,) = server.requests
    assert "webhook-signature" not in request.headers
    assert {"webhook-id", "webhook-timestamp"} <= request.headers.keys()


def test_each_endpoint_has_secrets_of_its_own(
    make: MakeBackend, server: WebhookServer, other: WebhookServer
) -> None:
    """`secrets_for` is asked for each endpoint of a batch, once."""
    asked = []

    def secrets_for(url: str) -> list[str]:
        asked.append(url)
        return [HMAC if url == server.url else OTHER_HMAC]

    backend = make(event_urls=True, allow_http=True, secrets_for=secrets_for)
    messages = [to(each.url) for each in (server, other, server)]
    assert backend.send_batch(messages) == [None] * 3
    assert sorted(asked) == sorted([server.url, other.url])
    for endpoint, secret in ((server, HMAC), (other, OTHER_HMAC)):
        for request in endpoint.requests:
            Webhook(secret).verify(request.body, request.headers)


def secrets_by_path(url: str) -> list[str]:
    """Where a dotted path leads."""
    return [HMAC]


def test_secrets_come_from_a_dotted_path(make: MakeBackend, server: WebhookServer) -> None:
    """Settings can name the function."""
    path = f"{__name__}.secrets_by_path"
    make(url=server.url, secrets_for=path).send(make_message(data=1))
    Webhook(HMAC).verify(server.requests[0].body, server.requests[0].headers)


def test_secrets_may_be_any_iterable(make: MakeBackend, server: WebhookServer) -> None:
    """Such as a queryset of a model that has them."""
    make(url=server.url, secrets_for=lambda url: iter([HMAC])).send(make_message(data=1))
    Webhook(HMAC).verify(server.requests[0].body, server.requests[0].headers)


@pytest.mark.parametrize("wrong", [["whsec_c2hvcnQ="], [HMAC.removeprefix("whsec_")], HMAC, None])
def test_secrets_that_cannot_be_had_hold_up_their_endpoint_only(
    make: MakeBackend, server: WebhookServer, other: WebhookServer, wrong: Any
) -> None:
    """Nothing goes out unsigned: the events are retried, and the error tells no secret."""

    def secrets_for(url: str) -> Any:
        return wrong if url == server.url else [HMAC]

    backend = make(event_urls=True, allow_http=True, secrets_for=secrets_for)
    outcomes = backend.send_batch([to(server.url), to(other.url)])
    assert kinds(outcomes) == [TransientError, None]
    assert "ValueError" in str(outcomes[0])
    assert not server.requests


def test_function_that_fails_with_a_secret_does_not_show_it(
    make: MakeBackend, server: WebhookServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The error names the kind of what was raised, not its text."""

    def secrets_for(url: str) -> list[str]:
        raise LookupError(HMAC)

    caplog.set_level(logging.DEBUG)
    (outcome,) = make(url=server.url, secrets_for=secrets_for).send_batch(numbers(1))
    assert kinds([outcome]) == [TransientError]
    assert "LookupError" in str(outcome)
    assert HMAC not in str(outcome) + caplog.text


@pytest.mark.parametrize(
    "secret",
    [
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_" + base64.b64encode(b"x" * 23).decode(),
        "whsec_" + base64.b64encode(b"x" * 65).decode(),
        "whsec_not/base64!secret",
        "whsk_" + base64.b64encode(b"x" * 31).decode(),
        "whpk_" + base64.b64encode(b"x" * 32).decode(),
        "",
        b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    ],
)
def test_wrong_secret_is_named_and_not_shown(secret: Any) -> None:
    """The error names the option and says what a secret is, without the one that is wrong."""
    with pytest.raises(BackendConfigurationError) as caught:
        WebhookBackend(alias="orders", url="https://a.example", secrets=[secret])
    text = str(caught.value) + str(caught.value.__cause__)
    assert "OUTBOX_PUBLISHERS['orders']['OPTIONS']['secrets']" in text
    assert not secret or str(secret) not in text


def test_missing_cryptography_names_the_extra(
    make: MakeBackend, server: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is missed only where a secret needs it, and then by name."""
    for name in [name for name in sys.modules if name.startswith("cryptography")]:
        monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
    make(url=server.url, secrets=[HMAC]).send(make_message(data=1))
    backend = make(url=server.url, secrets=[ED25519])
    with pytest.raises(MissingClient, match=r"django-broadcaster\[webhook\]"):
        backend.send(make_message(data=1))


def test_secrets_are_nowhere_to_be_seen(
    make: MakeBackend, server: WebhookServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither errors, with all that caused them, nor logs, nor `repr` show secrets or headers."""
    caplog.set_level(logging.DEBUG)
    secrets = [HMAC, ED25519]
    headers = {"Authorization": "Bearer hunter2"}
    backend = make(url=f"{server.url}/path-key?token=abc", secrets=secrets, headers=headers)
    replies = iter(
        [Reply(500), Reply(302, {"Location": "/"}), Reply(raw=b"nonsense\r\n\r\n", cut=True)]
    )
    server.answer = lambda request: next(replies)
    said = [repr(backend)]
    for message in numbers(3):
        (outcome,) = backend.send_batch([message])
        error: BaseException | None = outcome
        while error is not None:
            said += [str(error), repr(error)]
            error = error.__cause__ or error.__context__
    text = "\n".join([*said, caplog.text])
    assert "500" in text
    assert "not HTTP" in text
    for secret in (*secrets, "hunter2", "path-key", "token"):
        assert secret.rpartition("_")[2] not in text
