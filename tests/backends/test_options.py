"""The options of every backend: a wrong one is named, with the rule, and without a secret."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from inspect import Parameter, cleandoc, signature
from types import MappingProxyType
from typing import Any, Final

import django
import pytest
from django.test import override_settings

from django_broadcaster import backends as package
from django_broadcaster.backends import MessageBackend
from django_broadcaster.backends.options import OptionReader
from django_broadcaster.checks.publishers import check_backends
from django_broadcaster.exceptions import BackendConfigurationError

SECRET: Final = "hunter2-hunter2"

NEEDED: Final[dict[str, dict[str, Any]]] = {
    "CeleryBackend": {"app": "tests.support.celery_app.app"},
    "SNSBackend": {"topic_arn": "arn:aws:sns:eu-west-1:123456789012:events"},
    "SQSBackend": {"queue_url": "https://sqs.eu-west-1.amazonaws.com/123456789012/events"},
    "WebhookBackend": {"url": "https://hooks.example"},
}
"""The options that a backend can't be made without."""

WRONG: Final[dict[str, tuple[str, list[object]]]] = {
    "float": ("seconds", [0, -1, True, "5", math.nan, math.inf, b"5"]),
    "int": ("number", [-1000, True, 1.5, "1"]),
    "bool": ("True or False", ["yes", 1, 0]),
    "str": ("must be ", [1, b"events", ["events"], {"a": 1}]),
    "Mapping[str, Any]": ("dictionary", ["a", [1], {1: 2}]),
    "Mapping[str, str]": ("dictionary", ["a", [1], {1: 2}]),
    "Sequence[str]": ("must be ", [1, {"a": 1}, [1]]),
    "Sequence[tuple[str, int]]": ("pairs", ["a:1", ["a:1"], [("a", 0)], [("", 1)], [("a", "1")]]),
}
"""By the type of an option: a part of the rule, and values that break it."""


def backend_classes() -> Iterator[type[MessageBackend]]:
    """Every backend that a project can configure here."""
    for name in sorted(package.__all__):
        found = getattr(package, name)
        if not isinstance(found, type) or not issubclass(found, MessageBackend):
            continue
        if found is not MessageBackend and (name != "TasksBackend" or django.VERSION >= (6, 0)):
            yield found


def parameters(backend: type[MessageBackend]) -> dict[str, Parameter]:
    """The options of a backend, and those of the classes that it passes the rest on to."""
    found: dict[str, Parameter] = {}
    for base in backend.__mro__:
        if issubclass(base, MessageBackend) and "__init__" in vars(base):
            for name, each in signature(vars(base)["__init__"]).parameters.items():
                if each.kind is Parameter.KEYWORD_ONLY and name != "alias":
                    found.setdefault(name, each)
    return found


def types(parameter: Parameter) -> list[str]:
    """The types that a parameter is declared with."""
    return [each.strip() for each in str(parameter.annotation).split("|")]


OPTIONS = [
    pytest.param(backend, name, parameter, id=f"{backend.__name__}-{name}")
    for backend in backend_classes()
    for name, parameter in parameters(backend).items()
]


def make(backend: type[MessageBackend], **options: object) -> MessageBackend:
    """Make a backend with an option, and those that it needs."""
    return backend(**{"alias": "orders", **NEEDED.get(backend.__name__, {}), **options})


def setting(backend: type[MessageBackend], **options: object) -> dict[str, Any]:
    """OUTBOX_PUBLISHERS with a backend that has an option, and those that it needs."""
    path = f"django_broadcaster.backends.{backend.__name__}"
    return {"orders": {"BACKEND": path, "OPTIONS": NEEDED.get(backend.__name__, {}) | options}}


@pytest.mark.parametrize("backend", [pytest.param(b, id=b.__name__) for b in backend_classes()])
def test_backend_can_be_made_with_its_defaults(backend: type[MessageBackend]) -> None:
    """The default of each option keeps to the option's rule."""
    make(backend)


@pytest.mark.parametrize(("backend", "option", "parameter"), OPTIONS)
def test_option_of_another_type_is_named(
    backend: type[MessageBackend], option: str, parameter: Parameter
) -> None:
    """No option takes a value of a type that it has no rule for; the system check says the same."""
    value = object()
    with pytest.raises(BackendConfigurationError) as caught:
        make(backend, **{option: value})
    beginning = f"OUTBOX_PUBLISHERS['orders']['OPTIONS']['{option}']: must be "
    assert str(caught.value).startswith(beginning)
    assert str(caught.value).endswith("not object")
    with override_settings(OUTBOX_PUBLISHERS=setting(backend, **{option: value})):
        (message,) = check_backends()
    assert message.id == "django_broadcaster.E006"
    assert message.msg.startswith(beginning)
    assert f"'{option}'" in str(message.hint)


@pytest.mark.parametrize(("backend", "option", "parameter"), OPTIONS)
def test_wrong_value_is_named_with_the_rule(
    backend: type[MessageBackend], option: str, parameter: Parameter
) -> None:
    """An error says which option it is about, and what the value must be."""
    kinds = types(parameter)
    known = [kind for kind in kinds if kind in WRONG]
    if len(known) == 1 and not {"SSLContext", "ContentMode"} & set(kinds):
        rule, wrong = WRONG[known[0]]
        if option == "disable_after":  # infinity is never
            wrong = [value for value in wrong if value != math.inf]
    else:
        rule, wrong = "must be ", [1, b"x"]
        if "server" not in option:  # which is text, or a list of texts
            wrong.append("neither of them")
    for value in wrong if "None" in kinds else [*wrong, None]:
        if value is None and "bool" in kinds and len(kinds) > 1:
            continue  # `tls` may be None
        with pytest.raises(BackendConfigurationError) as caught:
            make(backend, **{option: value})
        named, _, problem = str(caught.value).partition(": ")
        assert named == f"OUTBOX_PUBLISHERS['orders']['OPTIONS']['{option}']", value
        assert problem.startswith("must "), value
        assert rule in problem, value


@pytest.mark.parametrize(("backend", "option", "parameter"), OPTIONS)
def test_no_error_shows_a_secret(
    backend: type[MessageBackend], option: str, parameter: Parameter
) -> None:
    """A password that is in the wrong place is in no error."""
    for value in ({"password": SECRET}, [SECRET, 1], f"amqp://me:{SECRET}/x@host/"):
        if isinstance(value, str) and not re.search("url|server|pass|secret|token", option):
            continue
        error = ""
        try:
            make(backend, **{option: value})
        except BackendConfigurationError as refused:
            error = str(refused)
        assert SECRET not in error


@pytest.mark.parametrize("backend", [pytest.param(b, id=b.__name__) for b in backend_classes()])
def test_misspelt_option_is_found(backend: type[MessageBackend]) -> None:
    """An option that no backend has is an error, and the check proposes the nearest name."""
    with pytest.raises(BackendConfigurationError, match="max_mesage_bytes"):
        make(backend, max_mesage_bytes=1)
    with override_settings(OUTBOX_PUBLISHERS=setting(backend, max_mesage_bytes=1)):
        (message,) = check_backends()
    assert "'max_message_bytes'" in str(message.hint)


@pytest.mark.parametrize("backend", [pytest.param(b, id=b.__name__) for b in backend_classes()])
def test_every_option_is_documented(backend: type[MessageBackend]) -> None:
    """The docstring of a backend, of which the reference is made, has all of its options."""
    _, _, section = cleandoc(backend.__doc__ or "").partition("Args:\n")
    items = section.partition("\n\n")[0]
    names = re.findall(r"^    ([a-z_]\w*(?:, [a-z_]\w*)*): [A-Z\"`-]", items, re.MULTILINE)
    documented = {name for group in names for name in group.split(", ")}
    assert documented == parameters(backend).keys() - {"max_message_bytes"}


# --- The toolbox ---------------------------------------------------------------------------------


class Refused(Exception):
    """The error of the reader below."""


READ = OptionReader(lambda name, problem: Refused(f"{name}: {problem}"))


@pytest.mark.parametrize(
    ("method", "arguments", "problem"),
    [
        ("seconds", (-1,), "must be a positive number of seconds, not -1"),
        ("seconds", (9, 0, 5), "must be a number of seconds from 0 to 5, not 9"),
        ("integer", (0, 1), "must be a whole number, 1 or more, not 0"),
        ("integer", ("1", 1, 5), "must be a whole number from 1 to 5, not '1'"),
        ("port", (0,), "must be a port number from 1 to 65535, not 0"),
        ("flag", ("yes",), "must be True or False, not 'yes'"),
        ("choice", ("c", ("a", "b")), "must be 'a' or 'b', not 'c'"),
        ("text", ("",), "must be a non-empty string, not ''"),
        ("text", ("abc", 2), "must be a non-empty string of at most 2 bytes, not 'abc'"),
        ("text", (["abc"],), "must be a non-empty string, not list"),
        ("text", ("me:pass@host", 2), "must be a non-empty string of at most 2 bytes"),
        ("template", ("{id}", str), "has the unknown field {id} in '{id}'; known fields: "),
        ("url", ("ftp://a", ("http", "https")), "must begin with http:// or https://"),
        ("url", ("http://", ("http",)), "must name a host"),
        ("url", ("http://a:b", ("http",)), "must have a valid host and port"),
        ("function", (1,), "must be a function or its dotted path, not 1"),
        ("mapping", ("a",), "must be a dictionary, not 'a'"),
        ("mapping", ({"c": 1}, ("a", "b")), "has the unknown key 'c'; known keys: 'a', 'b'"),
        ("strings", ("abc",), "must be a list of strings, not 'abc'"),
        ("addresses", ([1],), "must be a list of pairs (host, port), not list"),
        ("together", (1, "other", None), "has no effect without 'other'"),
        ("apart", (1, "other", 2), "can't be combined with 'other'"),
    ],
)
def test_each_rule_has_one_wording(method: str, arguments: tuple[Any, ...], problem: str) -> None:
    """An error names the option, then the rule, then the value."""
    with pytest.raises(Refused) as caught:
        getattr(READ, method)("option", *arguments)
    assert str(caught.value).startswith(f"option: {problem}")


@pytest.mark.parametrize("name", ["password", "sentinel_password", "token", "secrets", "api_key"])
def test_value_of_an_option_that_may_be_secret_is_not_shown(name: str) -> None:
    """The rule has to be enough."""
    with pytest.raises(Refused, match=r": must be True or False$"):
        READ.flag(name, SECRET)


@pytest.mark.parametrize(
    ("tls", "problem"),
    [
        ({"ca_certs": "ca.pem"}, "has the unknown key 'ca_certs'; known keys: 'ca_file'"),
        ({"ca_file": 1}, "'ca_file' must be a non-empty string, or None, not 1"),
        ({"verify": "no"}, "'verify' must be True or False, not 'no'"),
        ({"key_file": "key.pem"}, "'key_file' has no effect without 'cert_file'"),
        ("yes", "must be True, False or a dictionary of 'ca_file', "),
    ],
)
def test_key_of_tls_is_named(tls: object, problem: str) -> None:
    """What is wrong within the dictionary is said of its key."""
    with pytest.raises(Refused) as caught:
        READ.tls(tls)
    assert str(caught.value).startswith(f"tls: {problem}")


def test_what_is_read_is_returned() -> None:
    """A value that keeps to its rule comes back as it was given."""
    options = MappingProxyType({"a": 1})
    assert READ.mapping("option", options) is options
    assert READ.seconds("option", 5) == 5
    assert READ.integer("option", None, 1, optional=True) is None
    assert READ.url("option", "redis://:a%2Fb@host", ["redis"]).hostname == "host"
