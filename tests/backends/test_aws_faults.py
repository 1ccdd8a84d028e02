"""The SQS and SNS backends when something fails: the kind of error, the order, nothing lost.

moto's server stores what gets through. It forgets everything when it is killed, so what is shown
on a server that goes away is shown on one that hangs, is cut off, or comes back empty.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest

from django_broadcaster.backends import Message, SNSBackend, SQSBackend
from django_broadcaster.exceptions import (
    BackendUnavailable,
    DeliveryError,
    Held,
    Rejected,
    TransientError,
)
from django_broadcaster.testing import make_message
from tests.support.aws_server import (
    ACCOUNT,
    REGION,
    Arrived,
    AWSServer,
    RefusingProxy,
    Whole,
    aws_server,
)
from tests.support.batches import kinds
from tests.support.tcp_proxy import TcpProxy

from .test_aws import client_options

MakeBackend = Callable[..., SQSBackend]
WAIT = 30.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AWSServer]:
    """A server for the tests of this file that leave it as it is."""
    with aws_server(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture
def queue(server: AWSServer) -> str:
    """A FIFO queue that no other test uses."""
    return server.make_queue(f"f{uuid4().hex}.fifo")


@pytest.fixture
def make() -> Iterator[MakeBackend]:
    """Make backends, which are closed at the end."""
    with ExitStack() as made:

        def make(url: str, queue: str, **options: Any) -> SQSBackend:
            options = {"client": client_options(url), **options}
            backend = SQSBackend(alias="default", queue_url=queue, **options)
            return made.enter_context(closing(backend))

        yield make


def numbers(keys: Sequence[str], **options: Any) -> list[Message]:
    """Messages whose data is 0, 1, 2, ..., one for each key."""
    return [make_message(data=n, partition_key=key, **options) for n, key in enumerate(keys)]


def ids(arrived: Sequence[Arrived]) -> list[str]:
    """The event ids of what arrived."""
    return [json.loads(each.body)["id"] for each in arrived]


def check(arrived: Sequence[Arrived], messages: Sequence[Message]) -> None:
    """Assert that exactly these are there, each key in order."""
    stored = ids(arrived)
    assert sorted(stored) == sorted(message.event_id for message in messages)
    for key in {message.partition_key for message in messages} - {""}:
        of_key = [message.event_id for message in messages if message.partition_key == key]
        assert [each for each in stored if each in of_key] == of_key


def failed(code: str, *, fault: bool) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Make the entry of `Failed` for an entry."""
    return lambda entry: {"Id": entry["Id"], "Code": code, "SenderFault": fault, "Message": "no"}


def only(data: int, refuse: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Any:
    """Refuse the entries with this data only."""
    return lambda entry: refuse(entry) if json.loads(entry["MessageBody"])["data"] == data else None


# --- Entries that are refused by themselves ----------------------------------------------------


@pytest.mark.parametrize(
    ("code", "fault", "kind"),
    [
        ("InvalidMessageContents", True, Rejected),
        ("InvalidParameterValue", True, Rejected),
        ("InternalError", False, TransientError),
        ("ServiceFailure", False, TransientError),
    ],
)
def test_refused_entry_holds_its_key_only(
    make: MakeBackend, server: AWSServer, queue: str, code: str, fault: bool, kind: type[Exception]
) -> None:
    """The rest of its call is stored, and nothing of its key that stands behind it."""
    messages = numbers(["a", "b", "", "a", "c", "b", "a", ""])
    with RefusingProxy(server, refuse=only(3, failed(code, fault=fault))) as proxy:
        outcomes = make(proxy.url, queue).send_batch(messages)
    assert kinds(outcomes) == [None, None, None, kind, None, None, Held, None]
    assert code in str(outcomes[3])
    check(server.take(queue), [m for m, each in zip(messages, outcomes, strict=True) if not each])


@pytest.mark.parametrize(
    "code",
    ["KMS.DisabledException", "KmsAccessDenied", "ThrottlingException", "RequestThrottled",
     "ServiceUnavailable", "AccessDenied", "AWS.SimpleQueueService.OverLimit"],
)  # fmt: skip
def test_entry_that_is_refused_as_any_other_would_be_stops_the_batch(
    make: MakeBackend, server: AWSServer, queue: str, code: str
) -> None:
    """A key of KMS or a limit concerns all events: no retry is spent, nothing further is sent."""
    messages = numbers(["a", "b", "a", "b", "a"])
    with RefusingProxy(server, refuse=only(2, failed(code, fault=True))) as proxy:
        outcomes = make(proxy.url, queue, connections=1).send_batch(messages)
    assert kinds(outcomes) == [None, None, BackendUnavailable, None, BackendUnavailable]
    check(server.take(queue), [messages[0], messages[1], messages[3]])


def test_standard_queue_holds_what_has_not_left(make: MakeBackend, server: AWSServer) -> None:
    """Behind a refused event of a key, calls that were not made yet are without that key."""
    queue = server.make_queue(f"s{uuid4().hex}")
    messages = numbers(["a"] * 10 + ["b"] * 10 + ["a", "b"] * 5)
    with RefusingProxy(server, refuse=only(4, failed("InternalError", fault=False))) as proxy:
        outcomes = make(proxy.url, queue, connections=1).send_batch(messages)
    expected = [None] * 20 + [Held, None] * 5
    expected[4] = TransientError  # type: ignore[call-overload]
    assert kinds(outcomes) == expected
    stored = [m for m, each in zip(messages, outcomes, strict=True) if each is None]
    assert sorted(ids(server.take(queue))) == sorted(m.event_id for m in stored)


def test_answer_that_leaves_an_entry_out_acknowledges_nothing(
    make: MakeBackend, server: AWSServer, queue: str
) -> None:
    """What the answer does not name is not taken for stored."""
    with RefusingProxy(server, whole=lambda bodies: b'{"Successful": []}') as proxy:
        outcomes = make(proxy.url, queue).send_batch(numbers(["a", "b"]))
    assert kinds(outcomes) == [BackendUnavailable] * 2


# --- Calls that are refused as a whole ---------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("InvalidMessageContents", 400),
        ("InvalidParameterValue", 400),
        ("AWS.SimpleQueueService.BatchRequestTooLong", 400),
        ("RequestEntityTooLarge", 413),
    ],
)
def test_message_to_blame_for_a_refused_call_is_found(
    make: MakeBackend, server: AWSServer, queue: str, code: str, status: int
) -> None:
    """The call is made again in halves until the message is alone; all others are stored."""

    def whole(bodies: list[str]) -> Whole | None:
        bad = any(json.loads(body)["data"] in (3, 8) for body in bodies)
        return Whole(code, status=status) if bad else None

    messages = numbers([f"k{n % 12}" for n in range(30)])
    with RefusingProxy(server, whole=whole) as proxy:
        outcomes = make(proxy.url, queue).send_batch(messages)
    refused = {3: Rejected, 8: Rejected, 15: Held, 20: Held, 27: Held}
    assert kinds(outcomes) == [refused.get(n) for n in range(30)]
    check(server.take(queue), [m for n, m in enumerate(messages) if n not in refused])


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("AccessDenied", 403),
        ("ExpiredToken", 403),
        ("InvalidClientTokenId", 403),
        ("SignatureDoesNotMatch", 403),
        ("ThrottlingException", 400),
        ("RequestThrottled", 403),
        ("KmsThrottled", 400),
        ("KMS.NotFoundException", 400),
        ("MissingParameter", 400),
        ("InternalError", 500),
        ("ServiceUnavailable", 503),
        ("NobodyKnows", 418),
    ],
)
def test_refusal_that_any_event_would_meet_is_unavailable(
    make: MakeBackend, server: AWSServer, queue: str, code: str, status: int
) -> None:
    """No retry is spent, one call is made and not repeated, and the same backend goes on later."""
    answers = [Whole(code, "the reason", status)]
    with RefusingProxy(server, whole=lambda _: answers.pop() if answers else None) as proxy:
        backend = make(proxy.url, queue)
        messages = numbers(["a", "a", "b"])
        outcomes = backend.send_batch(messages)
        assert kinds(outcomes) == [BackendUnavailable] * 3
        assert code.rpartition(".")[2] in str(outcomes[0])
        assert len(proxy.calls) == 1
        assert backend.send_batch(messages) == [None] * 3
    check(server.take(queue), messages)


def test_answer_of_something_else_is_unavailable(
    make: MakeBackend, server: AWSServer, queue: str
) -> None:
    """A proxy's web page in place of an answer acknowledges nothing."""
    with RefusingProxy(server, whole=lambda _: b"<html>Sign in to the network") as proxy:
        outcomes = make(proxy.url, queue).send_batch(numbers(["a", "b"]))
    assert kinds(outcomes) == [BackendUnavailable] * 2


def test_missing_queue_is_unavailable(make: MakeBackend, server: AWSServer) -> None:
    """Everything waits until the queue is there."""
    name = f"m{uuid4().hex}.fifo"
    backend = make(server.url, f"{server.url}/{ACCOUNT}/{name}")
    messages = numbers(["a", "b"])
    assert kinds(backend.send_batch(messages)) == [BackendUnavailable] * 2
    assert backend.health_check() is False
    queue = server.make_queue(name)
    assert backend.send_batch(messages) == [None, None]
    check(server.take(queue), messages)


def test_missing_queue_of_one_event_costs_that_event_only(
    make: MakeBackend, server: AWSServer, queue: str
) -> None:
    """A queue that only one event asked for must not stop the others."""
    lost = {"queue_url": f"{server.url}/{ACCOUNT}/none.fifo"}
    messages = [*numbers(["a"], config=lost), *numbers(["a", "b"])]
    outcomes = make(server.url, queue).send_batch(messages)
    assert kinds(outcomes) == [TransientError, Held, None]
    check(server.take(queue), [messages[2]])


def test_message_over_the_queues_own_limit_is_rejected_alone(
    make: MakeBackend, server: AWSServer
) -> None:
    """A queue with a lower MaximumMessageSize refuses the call; the one to blame is found."""
    queue = server.make_queue(f"l{uuid4().hex}.fifo", MaximumMessageSize="2048")
    messages = numbers(["a", "b", "a", "c"])
    messages[0] = make_message(data="x" * 3000, partition_key="a")
    outcomes = make(server.url, queue).send_batch(messages)
    assert kinds(outcomes) == [Rejected, None, Held, None]
    check(server.take(queue), [messages[1], messages[3]])


def test_health_check_is_true_for_one_who_may_only_send(
    make: MakeBackend, server: AWSServer, queue: str
) -> None:
    """Not to be allowed to ask for attributes is no sign of a service that is away."""

    def whole(bodies: list[str]) -> Whole | None:
        return None if bodies else Whole("AccessDenied", status=403)

    with RefusingProxy(server, whole=whole) as proxy:
        backend = make(proxy.url, queue)
        assert backend.health_check() is True
        assert backend.send_batch(numbers(["a"])) == [None]


# --- SNS ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("whole", "own", "kind"),
    [
        (Whole("NotFound", "Topic does not exist", 404), False, BackendUnavailable),
        (Whole("NotFound", "Topic does not exist", 404), True, TransientError),
        (Whole("AuthorizationError", status=403), False, BackendUnavailable),
        (Whole("AuthorizationError", status=403), True, TransientError),
        (Whole("InvalidParameter", "Invalid parameter: TopicArn"), False, BackendUnavailable),
        (Whole("InvalidParameter", "Invalid parameter: Message too long"), False, Rejected),
        (Whole("KMSDisabled"), False, BackendUnavailable),
        (Whole("KMSThrottling"), True, BackendUnavailable),
        (Whole("Throttled", status=429), False, BackendUnavailable),
        (Whole("InternalError", status=500), False, BackendUnavailable),
    ],
    ids=lambda value: getattr(value, "code", None),
)
def test_kind_of_each_error_of_sns(
    server: AWSServer, whole: Whole, own: bool, kind: type[DeliveryError]
) -> None:
    """What concerns every event is unavailable; what one event asked for is its own affair."""
    topic = f"arn:aws:sns:{REGION}:{ACCOUNT}:events.fifo"
    config = {"topic_arn": topic.replace("events", "other")} if own else {}
    with (
        RefusingProxy(server, whole=lambda _: whole) as proxy,
        closing(
            SNSBackend(alias="default", topic_arn=topic, client=client_options(proxy.url))
        ) as backend,
    ):
        outcomes = backend.send_batch(numbers(["a", "b"], config=config))
    assert kinds(outcomes) == [kind] * 2


def test_topic_that_is_missing_is_unavailable(server: AWSServer) -> None:
    """The real answer for a topic that is not there, to publish and to the health check."""
    topic = f"arn:aws:sns:{REGION}:{ACCOUNT}:none-{uuid4().hex}"
    with closing(
        SNSBackend(alias="default", topic_arn=topic, client=client_options(server.url))
    ) as backend:
        assert kinds(backend.send_batch(numbers(["a"]))) == [BackendUnavailable]
        assert backend.health_check() is False


# --- Cut off, slow, gone -----------------------------------------------------------------------


@pytest.mark.chaos
@pytest.mark.parametrize("sent", [0, 300, 4000, 12_000])
@pytest.mark.parametrize("direction", ["cut_request_after", "cut_reply_after"])
def test_connection_cut_in_the_middle_of_a_batch(
    make: MakeBackend, server: AWSServer, queue: str, sent: int, direction: str
) -> None:
    """What was not acknowledged is sent again, and then all is there once, each key in order."""
    messages = numbers([f"k{n % 20}" for n in range(60)])
    with TcpProxy("127.0.0.1", server.port) as proxy:
        backend = make(f"http://127.0.0.1:{proxy.port}", queue, connections=3)
        setattr(proxy, direction, sent)
        outcomes = backend.send_batch(messages)
        setattr(proxy, direction, None)
        assert set(kinds(outcomes)) <= {None, BackendUnavailable}
        assert BackendUnavailable in kinds(outcomes)
        left = [m for m, outcome in zip(messages, outcomes, strict=True) if outcome is not None]
        deadline = time.monotonic() + WAIT
        while left and time.monotonic() < deadline:  # other connections may still be cut
            outcomes = backend.send_batch(left)
            left = [m for m, outcome in zip(left, outcomes, strict=True) if outcome is not None]
    assert left == []
    check(server.take(queue), messages)


@pytest.mark.chaos
def test_hanging_server_is_unavailable_after_the_timeout(make: MakeBackend, tmp_path: Path) -> None:
    """The timeout ends the wait. What was stored all the same is dropped when it comes again."""
    with aws_server(tmp_path) as server:
        queue = server.make_queue("hanging.fifo")
        backend = make(server.url, queue, timeout=1.0)
        first, messages = numbers(["a"]), numbers([f"k{n % 15}" for n in range(45)])
        assert backend.send_batch(first) == [None]
        with server.hanging():
            started = time.monotonic()
            assert kinds(backend.send_batch(messages)) == [BackendUnavailable] * 45
            assert backend.health_check() is False
            assert time.monotonic() - started < 8
        left = messages
        while left:
            outcomes = backend.send_batch(left)
            left = [m for m, outcome in zip(left, outcomes, strict=True) if outcome is not None]
            assert time.monotonic() - started < WAIT
        check(server.take(queue), [*first, *messages])


@pytest.mark.chaos
def test_server_that_is_stopped_and_started_under_load(make: MakeBackend, tmp_path: Path) -> None:
    """While it hangs and goes on again all is delivered, once, each key in order."""
    with aws_server(tmp_path) as server:
        queue = server.make_queue("load.fifo")
        backend = make(server.url, queue, timeout=0.5)
        under_load, over = threading.Event(), threading.Event()

        def disturb() -> None:
            for _ in range(2):
                assert under_load.wait(WAIT)
                under_load.clear()
                with server.hanging():
                    time.sleep(0.7)  # longer than the timeout: how long it hangs is the fault
            over.set()

        thread = threading.Thread(target=disturb)
        thread.start()
        sent: list[Message] = []
        deadline = time.monotonic() + 60
        while not over.is_set() or len(sent) < 80:
            batch = numbers([f"k{n % 8}" for n in range(20)])
            sent += batch
            while batch:
                under_load.set()
                outcomes = backend.send_batch(batch)
                assert set(kinds(outcomes)) <= {None, BackendUnavailable}
                batch = [m for m, each in zip(batch, outcomes, strict=True) if each is not None]
                assert time.monotonic() < deadline
        thread.join()
        check(server.take(queue), sent)


@pytest.mark.chaos
def test_server_that_was_killed_is_of_use_again(make: MakeBackend, tmp_path: Path) -> None:
    """SIGKILL and start: unavailable meanwhile, and without a queue; then delivery goes on."""
    with aws_server(tmp_path) as server:
        queue = server.make_queue("killed.fifo")
        backend = make(server.url, queue, timeout=2.0)
        assert backend.send_batch(numbers(["a"])) == [None]
        server.kill()
        assert kinds(backend.send_batch(numbers(["a", "b"]))) == [BackendUnavailable] * 2
        server.start()
        assert kinds(backend.send_batch(numbers(["a"]))) == [BackendUnavailable]
        server.make_queue("killed.fifo")
        messages = numbers(["a", "a", "b"])
        assert backend.send_batch(messages) == [None] * 3
        check(server.take(queue), messages)


def test_interrupted_batch_leaves_no_answers_behind(
    make: MakeBackend, server: AWSServer, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an interrupt no more calls of the batch leave, and the next batch is whole."""

    class Interrupted(BaseException):
        pass

    def interrupt(*_: Any, **__: Any) -> Any:
        raise Interrupted

    messages = numbers([f"k{n}" for n in range(60)])
    gate = threading.Event()
    with RefusingProxy(server, whole=lambda _: None if gate.wait(WAIT) else Whole("Late")) as proxy:
        backend = make(proxy.url, queue, connections=1)
        with monkeypatch.context() as patch:
            patch.setattr("django_broadcaster.backends.aws.sender.wait", interrupt)
            with pytest.raises(Interrupted):
                backend.send_batch(messages)
        gate.set()
        backend.close()  # waits for what is on its way
        assert len(proxy.calls) <= 1
        assert backend.send_batch(messages) == [None] * 60
    check(server.take(queue), messages)


def test_no_thread_is_left_behind(make: MakeBackend, server: AWSServer, queue: str) -> None:
    """Closing ends the threads of the calls."""
    backend = make(server.url, queue)
    assert backend.send_batch(numbers([f"k{n}" for n in range(40)])) == [None] * 40
    names = [each.name for each in threading.enumerate()]
    assert any(name.startswith("outbox-default") for name in names)
    backend.close()
    names = [each.name for each in threading.enumerate()]
    assert not any(name.startswith("outbox-default") for name in names)


# --- Credentials and TLS -----------------------------------------------------------------------


@pytest.mark.chaos
def test_wrong_credentials_are_unavailable(make: MakeBackend, tmp_path: Path) -> None:
    """Keys that are unknown, wrong, or of one who may not send cost no event; nothing is shown."""
    with aws_server(tmp_path, INITIAL_NO_AUTH_ACTION_COUNT="4") as server:
        queue = server.make_queue("guarded.fifo")
        topic = f"arn:aws:sns:{REGION}:{ACCOUNT}:guarded"
        options = client_options(server.url)
        with closing(boto3.client("iam", **options)) as iam:
            iam.create_user(UserName="shop")
            key = iam.create_access_key(UserName="shop")["AccessKey"]
            iam.list_users()
        known = {
            "aws_access_key_id": key["AccessKeyId"],
            "aws_secret_access_key": key["SecretAccessKey"],
        }
        for wrong, code in (
            ({}, "InvalidClientTokenId"),
            ({**known, "aws_secret_access_key": "my-secret"}, "SignatureDoesNotMatch"),
            (known, "AccessDenied"),
        ):
            client = {**options, **wrong}
            backend = make(server.url, queue, client=client)
            assert kinds(backend.send_batch(numbers(["a", "b"]))) == [BackendUnavailable] * 2
            # What moto answers in the place of SQS is not JSON, so the code is looked for in SNS's.
            with closing(SNSBackend(alias="default", topic_arn=topic, client=client)) as publisher:
                outcomes = publisher.send_batch(numbers(["a", "b"]))
                assert kinds(outcomes) == [BackendUnavailable] * 2
                assert code in str(outcomes[0])
                assert "my-secret" not in str(outcomes[0])
                # Who is known, and may not ask, is known to a service that is up.
                assert publisher.health_check() is (wrong is known)


@pytest.fixture(scope="module")
def tls_server(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AWSServer]:
    """A server that speaks TLS only."""
    files = ("--ssl-cert", str(certificates / "server.pem"))
    files += ("--ssl-key", str(certificates / "server.key"))
    with aws_server(tmp_path_factory.mktemp("moto"), *files) as server:
        yield server


def test_tls(make: MakeBackend, tls_server: AWSServer, certificates: Path) -> None:
    """With the CA the server's certificate is accepted, and the event is stored."""
    options = {**client_options(tls_server.url), "verify": str(certificates / "ca.pem")}
    with closing(boto3.client("sqs", **options)) as sqs:
        queue = sqs.create_queue(QueueName="tls")["QueueUrl"]
        backend = make(tls_server.url, queue, client=options)
        assert backend.send_batch(numbers(["a", "b"])) == [None, None]
        assert backend.health_check() is True
        assert len(sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]) == 2


@pytest.mark.parametrize("verify", ["other.pem", "missing.pem", None, "plain"])
def test_wrong_tls_is_unavailable(
    make: MakeBackend, tls_server: AWSServer, certificates: Path, verify: str | None
) -> None:
    """TLS that fails costs no event, and is never replaced by a connection without it."""
    options = client_options(tls_server.url)
    if verify == "plain":
        options["endpoint_url"] = tls_server.url.replace("https", "http")
    elif verify:
        options["verify"] = str(certificates / verify)
    backend = make(tls_server.url, f"{tls_server.url}/{ACCOUNT}/tls", client=options, timeout=3.0)
    assert kinds(backend.send_batch(numbers(["a", "b"]))) == [BackendUnavailable] * 2
    assert backend.health_check() is False
