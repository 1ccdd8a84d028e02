"""`username`, `password` and `tls` mean the same in every backend, on servers that want them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from ssl import CERT_REQUIRED, PROTOCOL_TLS_SERVER, SSLContext
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import boto3
import pytest

from django_broadcaster.backends import (
    KafkaBackend,
    MessageBackend,
    MQTTBackend,
    NATSBackend,
    Outcome,
    RabbitMQBackend,
    RedisStreamBackend,
    SQSBackend,
    WebhookBackend,
)
from django_broadcaster.exceptions import BackendConfigurationError, BackendUnavailable
from django_broadcaster.testing import make_message
from tests.support.aws_server import ACCOUNT, REGION, aws_server
from tests.support.batches import kinds, numbers
from tests.support.kafka_server import kafka_server, tls_config
from tests.support.mosquitto_server import mosquitto_server
from tests.support.nats_server import nats_server
from tests.support.rabbitmq_server import remove, shared_url
from tests.support.redis_server import free_port, missing, redis_server
from tests.support.tls_proxy import TlsProxy
from tests.support.webhook_server import Reply, Request, webhook_server

USERNAME: Final = "shop"
PASSWORD: Final = "p@ss/w:rd?"
"""It has all that a URL has to escape."""

QUOTED: Final = "p%40ss%2Fw%3Ard%3F"
WRONG: Final = "wrong-password"


@dataclass
class Secured:
    """A server that wants TLS with a certificate of ours and, mostly, a password."""

    backend: Callable[..., MessageBackend]
    options: Callable[[str], dict[str, Any]]
    """The options that lead to a host, which has the server's certificate or another name."""

    plain: dict[str, Any]
    """The options for a connection without TLS to the same port."""

    username: str | None = USERNAME
    password: str | None = PASSWORD
    url: tuple[str, Any] | None = None
    """The option and the value with credentials in it, where a URL may have them."""

    checks_health: bool = True
    """Whether the health check logs in."""

    can_ignore_name: bool = True
    """Whether the client can do without the name in the certificate."""

    more: dict[str, Any] = field(default_factory=dict)
    """Further options."""

    impatient: dict[str, Any] = field(default_factory=dict)
    """The options for a backend that will not get its answer, and need not wait for it long."""

    @property
    def login(self) -> dict[str, Any]:
        """The right credentials."""
        if self.password is None:
            return {}
        return {"username": self.username, "password": self.password}


@contextmanager
def secured_redis(folder: Path, certificates: Path) -> Iterator[Secured]:
    """Redis with a user of its own."""
    port = free_port()
    arguments = ["--tls-port", str(port)]
    for option, file in (("ca-cert", "ca.pem"), ("cert", "server.pem"), ("key", "server.key")):
        arguments += [f"--tls-{option}-file", str(certificates / file)]
    with redis_server(folder, *arguments) as server:
        server.command("ACL", "SETUSER", USERNAME, "on", f">{PASSWORD}", "~*", "+@all")
        server.command("ACL", "SETUSER", "default", "off")
        yield Secured(
            RedisStreamBackend,
            lambda host: {"host": host, "port": port},
            {"host": "127.0.0.1", "port": port},
            url=("url", f"rediss://{USERNAME}:{QUOTED}@127.0.0.1:{port}"),
            impatient={"socket_timeout": 2.0, "connect_timeout": 2.0},
        )


@contextmanager
def secured_nats(folder: Path, certificates: Path) -> Iterator[Secured]:
    """NATS with one user."""
    config = (
        f'tls {{ cert_file: "{certificates}/server.pem", key_file: "{certificates}/server.key", '
        f'ca_file: "{certificates}/ca.pem", verify: true }}\n'
        f'authorization {{ user: {USERNAME}, password: "{PASSWORD}" }}'
    )
    with nats_server(folder, config) as server:
        port = urlsplit(server.url).port
        yield Secured(
            NATSBackend,
            lambda host: {"servers": f"nats://{host}:{port}"},
            {"servers": f"nats://127.0.0.1:{port}"},
            url=("servers", [f"nats://{USERNAME}:{QUOTED}@127.0.0.1:{port}"]),
            more={"create_stream": True},
            impatient={"timeout": 3.0},
        )


@contextmanager
def secured_mqtt(folder: Path, certificates: Path) -> Iterator[Secured]:
    """Mosquitto with one user."""
    file = folder / "passwords"
    program = shutil.which("mosquitto_passwd") or missing("the program mosquitto_passwd")
    command = [program, "-c", "-b", str(file), USERNAME, PASSWORD]
    subprocess.run(command, check=True, capture_output=True)
    config = (
        "listener {port} 127.0.0.1\nallow_anonymous false\nrequire_certificate true\n"
        f"password_file {file}\ncafile {certificates}/ca.pem\n"
        f"certfile {certificates}/server.pem\nkeyfile {certificates}/server.key\n"
    )
    with mosquitto_server(folder, config) as server:
        yield Secured(
            MQTTBackend,
            lambda host: {"host": host, "port": server.port},
            {"host": "127.0.0.1", "port": server.port},
            impatient={"timeout": 2.0},
        )


@contextmanager
def secured_rabbitmq(folder: Path, certificates: Path) -> Iterator[Secured]:
    """The RabbitMQ of all tests, through a proxy that speaks TLS; its user is guest."""
    name = f"test-{uuid4().hex}"
    with TlsProxy(certificates, urlsplit(shared_url()).port or 5672) as proxy:
        try:
            yield Secured(
                RabbitMQBackend,
                lambda host: {"url": f"amqps://{host}:{proxy.port}"},
                {"url": f"amqp://127.0.0.1:{proxy.port}"},
                username="guest",
                password="guest",
                url=("url", f"amqps://guest:guest@127.0.0.1:{proxy.port}"),
                more={"exchange": name, "queue": name},
                impatient={"timeout": 3.0, "connect_timeout": 3.0},
            )
        finally:
            remove(shared_url(), name)


@contextmanager
def secured_kafka(folder: Path, certificates: Path) -> Iterator[Secured]:
    """Kafka with one user."""
    config = f"""{tls_config(folder, certificates, "SASL_SSL")}
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_ssl.plain.sasl.jaas.config=\\
  org.apache.kafka.common.security.plain.PlainLoginModule required user_{USERNAME}="{PASSWORD}";
"""
    with kafka_server(folder, config, ["SASL_SSL"]) as server:
        port = server.ports["SASL_SSL"]
        yield Secured(
            KafkaBackend,
            lambda host: {"bootstrap_servers": f"{host}:{port}"},
            {"bootstrap_servers": f"127.0.0.1:{port}"},
            impatient={"timeout": 2.0},
        )


@contextmanager
def secured_webhook(folder: Path, certificates: Path) -> Iterator[Secured]:
    """An endpoint that wants Basic authentication."""
    context = SSLContext(PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    context.load_verify_locations(certificates / "ca.pem")
    context.verify_mode = CERT_REQUIRED
    header = "Basic c2hvcDpwQHNzL3c6cmQ/"

    def answer(request: Request) -> Reply:
        return Reply(204 if request.headers.get("authorization") == header else 401)

    with webhook_server(context) as server:
        server.answer = answer
        yield Secured(
            WebhookBackend,
            lambda host: {"url": f"https://{host}:{server.port}/"},
            {"url": f"http://127.0.0.1:{server.port}/"},
            checks_health=False,
            more={"allow_private": True},
            impatient={"timeout": 3.0},
        )


@contextmanager
def secured_sqs(folder: Path, certificates: Path) -> Iterator[Secured]:
    """Moto, which knows one access key, through a proxy that speaks TLS."""
    with aws_server(folder, INITIAL_NO_AUTH_ACTION_COUNT="4") as server:
        server.make_queue("orders")
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
        iam = boto3.client("iam", endpoint_url=server.url, region_name=REGION, **keys)
        iam.create_user(UserName=USERNAME)
        key = iam.create_access_key(UserName=USERNAME)["AccessKey"]
        iam.put_user_policy(
            UserName=USERNAME,
            PolicyName="all",
            PolicyDocument='{"Version": "2012-10-17", "Statement": '
            '[{"Effect": "Allow", "Action": "*", "Resource": "*"}]}',
        )
        iam.close()
        with TlsProxy(certificates, server.port) as proxy:
            yield Secured(
                SQSBackend,
                lambda host: {
                    "queue_url": f"https://127.0.0.1:{proxy.port}/{ACCOUNT}/orders",
                    "client": {
                        "region_name": REGION,
                        "endpoint_url": f"https://{host}:{proxy.port}",
                    },
                },
                {
                    "queue_url": f"http://127.0.0.1:{proxy.port}/{ACCOUNT}/orders",
                    "client": {
                        "region_name": REGION,
                        "endpoint_url": f"http://127.0.0.1:{proxy.port}",
                    },
                },
                username=key["AccessKeyId"],
                password=key["SecretAccessKey"],
                can_ignore_name=False,
                impatient={"timeout": 3.0},
            )


SERVERS: Final[dict[str, Callable[[Path, Path], AbstractContextManager[Secured]]]] = {
    "redis": secured_redis,
    "nats": secured_nats,
    "mqtt": secured_mqtt,
    "rabbitmq": secured_rabbitmq,
    "kafka": secured_kafka,
    "webhook": secured_webhook,
    "sqs": secured_sqs,
}


@pytest.fixture(scope="module", params=SERVERS)
def secured(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificates: Path
) -> Iterator[Secured]:
    """A server for the tests of this file."""
    folder = tmp_path_factory.mktemp(request.param)
    with SERVERS[request.param](folder, certificates) as running_server:
        yield running_server


MakeBackend = Callable[..., MessageBackend]


@pytest.fixture
def make(secured: Secured) -> Iterator[MakeBackend]:
    """Make backends for the server, which are closed at the end."""
    with ExitStack() as made:

        def make(**options: Any) -> MessageBackend:
            backend = secured.backend(**{"alias": "orders", **secured.more, **options})
            made.callback(backend.close)
            return backend

        yield make


def files(certificates: Path, **changes: object) -> dict[str, Any]:
    """The dictionary for `tls`, with our certificate; a change of None leaves a key out."""
    found = {
        "ca_file": str(certificates / "ca.pem"),
        "cert_file": str(certificates / "client.pem"),
        "key_file": str(certificates / "client.key"),
        **changes,
    }
    return {key: value for key, value in found.items() if value is not None}


def outcomes_of(backend: MessageBackend) -> list[Outcome]:
    """Send two events; return what became of them."""
    try:
        return backend.send_batch(numbers(2))
    except BackendUnavailable as error:
        return [error, error]


def test_right_credentials_and_certificates_deliver(
    secured: Secured, make: MakeBackend, certificates: Path
) -> None:
    """Events of all sizes are delivered over an encrypted connection."""
    backend = make(**secured.options("127.0.0.1"), **secured.login, tls=files(certificates))
    messages = [*numbers(50), make_message(data="x" * 200_000), *numbers(5, "key")]
    assert backend.send_batch(messages) == [None] * len(messages)
    assert backend.health_check() is True


def test_credentials_may_be_in_the_url(
    secured: Secured, make: MakeBackend, certificates: Path
) -> None:
    """A URL may have the credentials, but not both it and the options."""
    if secured.url is None:
        pytest.skip("this backend takes no credentials in a URL")
    option, value = secured.url
    backend = make(**{option: value}, tls=files(certificates))
    assert outcomes_of(backend) == [None] * 2
    with pytest.raises(BackendConfigurationError) as caught:
        make(**{option: value}, password=WRONG)
    assert f"['{option}']: must not contain credentials" in str(caught.value)
    assert WRONG not in str(caught.value)
    assert QUOTED not in str(caught.value)


@pytest.mark.parametrize("wrong", ["password", "username", "nothing"])
def test_wrong_credentials_are_unavailable(
    secured: Secured, make: MakeBackend, certificates: Path, wrong: str
) -> None:
    """They cost no event, and no error shows them."""
    if secured.password is None:
        pytest.skip("this server lets everybody in")
    if wrong == "nothing" and secured.username == "guest":
        pytest.skip("these are the credentials by default")
    login = {} if wrong == "nothing" else {**secured.login, wrong: WRONG}
    options = {**secured.options("127.0.0.1"), **login, **secured.impatient}
    backend = make(**options, tls=files(certificates))
    outcomes = outcomes_of(backend)
    assert kinds(outcomes) == [BackendUnavailable] * 2
    if wrong != "username":
        assert WRONG not in f"{outcomes[0]} {outcomes[0].__cause__}"  # type: ignore[union-attr]
    assert backend.health_check() is (not secured.checks_health)


@pytest.mark.parametrize(
    "changes",
    [
        {"ca_file": "other.pem"},
        {"ca_file": "missing.pem"},
        {"cert_file": None, "key_file": None},
        {"check_hostname": False, "ca_file": "other.pem"},
    ],
    ids=["another CA", "no CA file", "no certificate of ours", "another CA and any name"],
)
def test_wrong_certificates_are_unavailable(
    secured: Secured, make: MakeBackend, certificates: Path, changes: dict[str, Any]
) -> None:
    """TLS that fails costs no event."""
    if not secured.can_ignore_name and "check_hostname" in changes:
        pytest.skip("this client always checks the name")
    tls = files(certificates, **changes)
    tls["ca_file"] = str(certificates / tls["ca_file"])
    options = {**secured.options("127.0.0.1"), **secured.login, **secured.impatient}
    backend = make(**options, tls=tls)
    assert kinds(outcomes_of(backend)) == [BackendUnavailable] * 2
    if changes.get("cert_file", "") is not None:
        assert secured.backend is WebhookBackend or backend.health_check() is False


def test_no_tls_is_unavailable(secured: Secured, make: MakeBackend) -> None:
    """TLS is never replaced by a connection without it, nor the other way round."""
    backend = make(**secured.plain, **secured.login, **secured.impatient)
    assert kinds(outcomes_of(backend)) == [BackendUnavailable] * 2


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")  # urllib3 says what we asked for
def test_name_of_the_server_counts_unless_told_otherwise(
    secured: Secured, make: MakeBackend, certificates: Path
) -> None:
    """`check_hostname` of False accepts another name, `verify` of False any certificate."""
    options = {**secured.options("localhost"), **secured.login}
    strict = make(**options, **secured.impatient, tls=files(certificates))
    assert kinds(outcomes_of(strict)) == [BackendUnavailable] * 2
    any_server = files(certificates, ca_file=None, verify=False)
    assert outcomes_of(make(**options, tls=any_server)) == [None] * 2
    if secured.can_ignore_name:
        any_name = files(certificates, check_hostname=False)
        assert outcomes_of(make(**options, tls=any_name)) == [None] * 2


def test_page_of_an_event_shows_no_credentials() -> None:
    """The header of Basic authentication is named, and its value left out."""
    login = {"username": USERNAME, "password": PASSWORD}
    backend = WebhookBackend(alias="orders", url="https://hooks.example", **login)
    assert backend.show(make_message(data=1)).headers["Authorization"] == "(not shown)"


# --- What the clients are told ------------------------------------------------------------------


def test_kafka_is_told_the_credentials_in_its_own_words() -> None:
    """With a password the protocol is SASL's, and the mechanism PLAIN unless `config` has one."""
    login = {"username": USERNAME, "password": PASSWORD}
    backend = KafkaBackend(alias="orders", **login, tls={"ca_file": "ca.pem"})  # type: ignore[arg-type]
    assert backend.address.config == {
        "security.protocol": "sasl_ssl",
        "sasl.mechanisms": "PLAIN",
        "sasl.username": USERNAME,
        "sasl.password": PASSWORD,
        "ssl.ca.location": "ca.pem",
    }
    scram = {"sasl.mechanisms": "SCRAM-SHA-512"}
    backend = KafkaBackend(alias="orders", **login, config=scram)  # type: ignore[arg-type]
    assert backend.address.config["sasl.mechanisms"] == "SCRAM-SHA-512"
    assert backend.address.config["security.protocol"] == "sasl_plaintext"


@pytest.mark.parametrize(
    ("backend", "options", "named"),
    [
        (KafkaBackend, {"config": {"sasl.username": "me"}, "username": "me"}, "username"),
        (KafkaBackend, {"config": {"ssl.ca.location": "a"}, "tls": {"ca_file": "b"}}, "tls"),
        (KafkaBackend, {"config": {"security.protocol": "ssl"}, "username": "me"}, "config"),
        (SQSBackend, {"client": {"aws_access_key_id": "a"}, **dict.fromkeys(
            ("username", "password"), "b")}, "username"),
        (SQSBackend, {"client": {"verify": False}, "tls": {"ca_file": "a"}}, "tls"),
        (SQSBackend, {"tls": {"check_hostname": False}}, "tls"),
        (SQSBackend, {"username": "me"}, "password"),
        (WebhookBackend, {"headers": {"authorization": "x"}, "username": "me"}, "username"),
        (WebhookBackend, {"event_urls": True, "username": "me"}, "username"),
        (NATSBackend, {"username": "me"}, "password"),
        (MQTTBackend, {"password": WRONG}, "username"),
        (RedisStreamBackend, {"url": "redis://one", "tls": True}, "url"),
        (RabbitMQBackend, {"url": "amqp://one", "tls": True}, "url"),
    ],
)  # fmt: skip
def test_contradiction_is_named(
    backend: Callable[..., MessageBackend], options: dict[str, Any], named: str
) -> None:
    """What is said twice, or leaves something open, is an error that names the option."""
    needed = {
        SQSBackend: {"queue_url": f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/orders"},
        WebhookBackend: {"url": "https://hooks.example"},
    }
    with pytest.raises(BackendConfigurationError) as caught:
        backend(**{"alias": "orders", **needed.get(backend, {}), **options})  # type: ignore[arg-type, call-overload]
    assert f"OUTBOX_PUBLISHERS['orders']['OPTIONS']['{named}']: " in str(caught.value)
    assert WRONG not in str(caught.value)
