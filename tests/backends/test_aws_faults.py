"""The SQS and SNS backends when something fails: the kind of error, the order, nothing lost.

moto's server stores what gets through. It forgets everything when it is killed, so what is shown
on a server that goes away is shown on one that hangs, is cut off, or comes back empty.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import boto3
import pytest

from django_broadcaster.backends import Message, MessageBackend, SNSBackend, SQSBackend
from django_broadcaster.exceptions import (
    BackendUnavailable,
    DeliveryError,
    Held,
    Rejected,
    TransientError,
)
from django_broadcaster.testing import BackendFaultContract, Fault, make_message
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
from tests.support.tls_cases import SERVER_CASES, tls_options

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


# --- The contract ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The client's options for a server that asks for credentials, with those of an administrator.

    The first three calls need none: they make the administrator.
    """
    with aws_server(tmp_path_factory.mktemp("moto"), INITIAL_NO_AUTH_ACTION_COUNT="3") as server:
        options = client_options(server.url)
        everything = [{"Effect": "Allow", "Action": "*", "Resource": "*"}]
        policy = json.dumps({"Version": "2012-10-17", "Statement": everything})
        yield {**options, **new_key(options, "admin", policy)}


def new_key(options: Mapping[str, Any], user: str, policy: str = "") -> dict[str, str]:
    """Make a user, with a policy if one is given; return the client's options for its key."""
    with closing(boto3.client("iam", **options)) as iam:
        iam.create_user(UserName=user)
        key = iam.create_access_key(UserName=user)["AccessKey"]
        if policy:
            iam.put_user_policy(UserName=user, PolicyName="all", PolicyDocument=policy)
    return {
        "aws_access_key_id": key["AccessKeyId"],
        "aws_secret_access_key": key["SecretAccessKey"],
    }


@pytest.fixture(scope="module")
def tls_server(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AWSServer]:
    """A server that speaks TLS only."""
    files = ("--ssl-cert", str(certificates / "server.pem"))
    files += ("--ssl-key", str(certificates / "server.key"))
    with aws_server(tmp_path_factory.mktemp("moto"), *files) as server:
        yield server


class TestSQSFaults(BackendFaultContract):
    """A FIFO queue, through a proxy. A server that hangs is like one that is stopped.

    Moto forgets the ids of messages that were taken, so an event may be stored twice here.
    """

    backend: ClassVar[type[MessageBackend]] = SQSBackend
    excluded: ClassVar[Mapping[Fault, str]] = {}
    cases: ClassVar[Mapping[Fault, Sequence[str]]] = {
        Fault.CREDENTIALS: ("unknown key", "wrong secret"),
        Fault.TLS: tuple(case for case in SERVER_CASES if case != "another name"),
        Fault.FULL: ("ThrottlingException", "AWS.SimpleQueueService.OverLimit"),
    }
    timeout_options = {"timeout": 1.0}

    @pytest.fixture(autouse=True)
    def _server(self, server: AWSServer, request: pytest.FixtureRequest) -> Iterator[None]:
        self.server, self.request = server, request
        self.arrived: list[Arrived] = []
        with TcpProxy("127.0.0.1", server.port) as self.proxy, ExitStack() as self.proxies:
            self.client = client_options(f"http://127.0.0.1:{self.proxy.port}")
            self.make_destination(client_options(server.url))
            yield

    def make_destination(self, client: Mapping[str, Any], **attributes: str) -> None:
        """Make a queue, which is read back, and what leads to it."""
        self.name = f"c{uuid4().hex}.fifo"
        attributes["FifoQueue"] = "true"
        with closing(boto3.client("sqs", **client)) as sqs:
            made = sqs.create_queue(QueueName=self.name, Attributes=attributes)
        self.queue = made["QueueUrl"]

    def destination(self, name: str) -> dict[str, Any]:
        """Return the option for that name, which may be in `publisher_config`, too."""
        return {"queue_url": f"{self.server.url}/{ACCOUNT}/{name}"}

    def make_backend(self, **options: Any) -> MessageBackend:
        defaults = {"client": self.client, **self.destination(self.name)}
        return self.backend(**{**defaults, **options})

    def read_back(self) -> Sequence[Mapping[str, Any]]:
        self.arrived += self.server.take(self.queue)
        return [json.loads(each.body) for each in self.arrived]

    def stopped(self) -> AbstractContextManager[object]:
        return self.server.hanging()

    def connection_cut(self, direction: str, after: int) -> AbstractContextManager[object]:
        return self.proxy.cut(direction, after)

    def frozen(self) -> AbstractContextManager[object]:
        return self.server.hanging()

    @contextmanager
    def size_limited(self, case: str) -> Iterator[int]:
        self.make_destination(client_options(self.server.url), MaximumMessageSize="2048")
        yield 2048

    @contextmanager
    def destination_missing(self, case: str) -> Iterator[MessageBackend]:
        with closing(boto3.client("sqs", **client_options(self.server.url))) as sqs:
            sqs.delete_queue(QueueUrl=self.queue)
            yield self.new_backend()
            sqs.create_queue(QueueName=self.name, Attributes={"FifoQueue": "true"})

    def missing_for_one(self, case: str) -> Mapping[str, Any]:
        return self.destination("none.fifo")

    @contextmanager
    def credentials(self, case: str | None) -> Iterator[MessageBackend]:
        right = self.request.getfixturevalue("guarded")
        self.make_destination(right)
        wrong = {
            None: {},
            "unknown key": {"aws_access_key_id": "nobody"},
            "wrong secret": {"aws_secret_access_key": self.secret},
        }[case]
        yield self.new_backend(client={**right, **wrong})

    @contextmanager
    def tls(self, case: str | None) -> Iterator[MessageBackend]:
        files: Path = self.request.getfixturevalue("certificates")
        options = client_options(self.request.getfixturevalue("tls_server").url)
        self.make_destination({**options, "verify": str(files / "ca.pem")})
        if case == "no TLS":
            options["endpoint_url"] = options["endpoint_url"].replace("https", "http")
        # The address is the one that queues have; boto3 always checks its name.
        yield self.new_backend(client=options, timeout=3.0, **tls_options(files, case))

    @contextmanager
    def full(self, case: str) -> Iterator[MessageBackend]:
        refusing = RefusingProxy(self.server)
        refusing.whole = lambda _: Whole(case, status=403) if len(refusing.calls) > 3 else None
        self.proxies.enter_context(refusing)
        yield self.new_backend(client=client_options(refusing.url))
        refusing.whole = lambda _: None


class TestSNSFaults(TestSQSFaults):
    """A FIFO topic to which the queue is subscribed."""

    backend = SNSBackend
    excluded = {Fault.TOO_LARGE: "a topic has no limit of its own below that of the service"}
    cases = {**TestSQSFaults.cases, Fault.FULL: ("Throttled", "KMSThrottling")}

    def make_destination(self, client: Mapping[str, Any], **attributes: str) -> None:
        super().make_destination(client, **attributes)
        with closing(boto3.client("sns", **client)) as sns:
            attributes = {"FifoTopic": "true"}
            topic = sns.create_topic(Name=self.name, Attributes=attributes)["TopicArn"]
            sns.subscribe(
                TopicArn=topic,
                Protocol="sqs",
                Endpoint=f"arn:aws:sqs:{REGION}:{ACCOUNT}:{self.name}",
                Attributes={"RawMessageDelivery": "true"},
            )

    def destination(self, name: str) -> dict[str, Any]:
        return {"topic_arn": f"arn:aws:sns:{REGION}:{ACCOUNT}:{name}"}

    @contextmanager
    def destination_missing(self, case: str) -> Iterator[MessageBackend]:
        there, self.name = self.name, f"c{uuid4().hex}.fifo"
        yield self.new_backend()
        name, self.name = self.name, there
        with closing(boto3.client("sns", **client_options(self.server.url))) as sns:
            topic = sns.create_topic(Name=name, Attributes={"FifoTopic": "true"})["TopicArn"]
            sns.subscribe(
                TopicArn=topic,
                Protocol="sqs",
                Endpoint=f"arn:aws:sqs:{REGION}:{ACCOUNT}:{there}",
                Attributes={"RawMessageDelivery": "true"},
            )


# --- Entries that are refused by themselves ----------------------------------------------------


@pytest.mark.shows("order after a failure in a batch")
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


@pytest.mark.shows(Fault.FULL)
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


@pytest.mark.shows(Fault.TOO_LARGE)
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


@pytest.mark.shows(Fault.FULL)
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


@pytest.mark.parametrize("service", ["queue", "topic"])
def test_health_check_is_false_while_the_destination_is_missing(
    make: MakeBackend, server: AWSServer, service: str
) -> None:
    """The health check asks for the queue or the topic itself."""
    client, name = client_options(server.url), f"none-{uuid4().hex}"
    if service == "queue":
        assert make(server.url, f"{server.url}/{ACCOUNT}/{name}").health_check() is False
        return
    topic = f"arn:aws:sns:{REGION}:{ACCOUNT}:{name}"
    with closing(SNSBackend(alias="default", topic_arn=topic, client=client)) as backend:
        assert backend.health_check() is False


# --- Cut off, slow, gone -----------------------------------------------------------------------


@pytest.mark.shows(Fault.RESTART)
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


# --- Credentials -------------------------------------------------------------------------------


def test_refused_credentials_are_told_apart(guarded: dict[str, Any]) -> None:
    """The error has the service's code; who is known and may do nothing finds the service up."""
    topic = f"arn:aws:sns:{REGION}:{ACCOUNT}:guarded"
    known = new_key(guarded, f"user-{uuid4().hex}")
    for keys, code in (
        ({**known, "aws_access_key_id": "nobody"}, "InvalidClientTokenId"),
        ({**known, "aws_secret_access_key": "my-secret"}, "SignatureDoesNotMatch"),
        (known, "AccessDenied"),
    ):
        client = {**guarded, **keys}
        with closing(SNSBackend(alias="default", topic_arn=topic, client=client)) as backend:
            outcomes = backend.send_batch(numbers(["a", "b"]))
            assert kinds(outcomes) == [BackendUnavailable] * 2
            assert code in str(outcomes[0])
            assert backend.health_check() is (keys is known)
