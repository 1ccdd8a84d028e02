"""From OUTBOX_PUBLISHERS to a backend, and what is said when that fails."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

import django_broadcaster.backends
from django_broadcaster.backends import (
    ConsoleBackend,
    DummyBackend,
    LocMemBackend,
    Message,
    MessageBackend,
)
from django_broadcaster.backends.handler import backends
from django_broadcaster.exceptions import BackendConfigurationError, UnknownBackend

HERE = "tests.backends.test_handler"
DUMMY = "django_broadcaster.backends.DummyBackend"


class PigeonBackend(MessageBackend):
    """A backend of a third party."""

    closed = 0

    def __init__(self, *, loft: str, **options: Any) -> None:
        super().__init__(**options)
        if loft == "none":
            raise ValueError("loft: there is none of that name")
        self.loft = loft

    def send(self, message: Message) -> None:
        """Not reached."""

    def close(self) -> None:
        """Count the calls."""
        self.closed += 1


not_a_class = "text"


def publishers(**entry: Any) -> Any:
    """Settings with one alias, `orders`."""
    return override_settings(OUTBOX_PUBLISHERS={"orders": entry})


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (DUMMY, DummyBackend),
        ("django_broadcaster.backends.dummy.DummyBackend", DummyBackend),
        ("django_broadcaster.backends.ConsoleBackend", ConsoleBackend),
        ("django_broadcaster.backends.LocMemBackend", LocMemBackend),
    ],
)
def test_dotted_path_is_loaded(path: str, expected: type[MessageBackend]) -> None:
    """A backend is found by the package's public name and by its module."""
    with publishers(BACKEND=path):
        assert type(backends["orders"]) is expected


def test_backend_of_a_third_party_gets_its_options() -> None:
    """Any importable subclass works; OPTIONS are its arguments, the contract's own included."""
    with publishers(
        BACKEND=f"{HERE}.PigeonBackend", OPTIONS={"loft": "north", "max_message_bytes": 10}
    ):
        backend = backends["orders"]
        assert isinstance(backend, PigeonBackend)
        assert (backend.alias, backend.loft, backend.max_message_bytes) == ("orders", "north", 10)


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "1000"])
def test_a_wrong_limit_of_bytes_is_refused(limit: object) -> None:
    """A limit that is no size is an error of the settings, not of each publish call."""
    with (
        publishers(BACKEND=DUMMY, OPTIONS={"max_message_bytes": limit}),
        pytest.raises(BackendConfigurationError, match=r"'orders'.*'max_message_bytes'"),
    ):
        backends["orders"]


def test_lookup_keeps_its_instance_and_create_does_not() -> None:
    """Publish calls share one instance; each relay has its own."""
    with publishers(BACKEND=DUMMY):
        assert backends["orders"] is backends["orders"]
        assert backends.create("orders") is not backends["orders"]


def test_changed_setting_makes_new_backends() -> None:
    """Under other settings the backends are others, and the old ones are closed."""
    with publishers(BACKEND=f"{HERE}.PigeonBackend", OPTIONS={"loft": "north"}):
        backend = backends["orders"]
        assert isinstance(backend, PigeonBackend)
        with publishers(BACKEND=DUMMY):
            assert isinstance(backends["orders"], DummyBackend)
            assert backend.closed == 1
        assert id(backends["orders"]) != id(backend)


def test_unknown_alias_lists_the_known_ones() -> None:
    """An alias that is not configured raises UnknownBackend, which lists those that are."""
    with publishers(BACKEND=DUMMY), pytest.raises(UnknownBackend, match="'orders'") as caught:
        backends["order"]
    assert (caught.value.alias, caught.value.known) == ("order", ("orders",))


@pytest.mark.parametrize(
    ("entry", "key", "said"),
    [
        ({}, "", "BACKEND"),
        ({"BACKEND": "nowhere.NoBackend"}, "['BACKEND']", "nowhere.NoBackend"),
        ({"BACKEND": "DummyBackend"}, "['BACKEND']", "DummyBackend"),
        ({"BACKEND": f"{HERE}.NoBackend"}, "['BACKEND']", "NoBackend"),
        ({"BACKEND": f"{HERE}.not_a_class"}, "['BACKEND']", "subclass of PublisherBackend"),
        ({"BACKEND": "decimal.Decimal"}, "['BACKEND']", "subclass of PublisherBackend"),
        ({"BACKEND": DUMMY, "OPTIONS": {"hots": "x"}}, "['OPTIONS']", "'hots'"),
        ({"BACKEND": f"{HERE}.PigeonBackend"}, "['OPTIONS']", "loft"),
        (
            {"BACKEND": f"{HERE}.PigeonBackend", "OPTIONS": {"loft": "none"}},
            "['OPTIONS']",
            "there is none",
        ),
    ],
)
def test_wrong_entry_names_setting_and_alias(entry: dict[str, Any], key: str, said: str) -> None:
    """Whatever is wrong with an entry, the error says where it stands and what it is."""
    with publishers(**entry), pytest.raises(BackendConfigurationError) as caught:
        backends["orders"]
    assert isinstance(caught.value, ImproperlyConfigured)
    assert f"OUTBOX_PUBLISHERS['orders']{key}" in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "cause"),
    [
        ({"BACKEND": "nowhere.NoBackend"}, ModuleNotFoundError),
        ({"BACKEND": f"{HERE}.NoBackend"}, ImportError),
        ({"BACKEND": f"{HERE}.PigeonBackend"}, TypeError),
        ({"BACKEND": f"{HERE}.PigeonBackend", "OPTIONS": {"loft": "none"}}, ValueError),
    ],
)
def test_error_chains_with_its_cause(entry: dict[str, Any], cause: type[Exception]) -> None:
    """The error that was met stays visible behind the one that says where."""
    with publishers(**entry), pytest.raises(BackendConfigurationError) as caught:
        backends["orders"]
    assert type(caught.value.__cause__) is cause


@pytest.mark.parametrize(
    ("retry", "cause"), [({"factor": 0}, ValueError), ({"no_such": 0}, TypeError)]
)
def test_wrong_retry_names_setting_and_alias(
    retry: dict[str, float], cause: type[Exception]
) -> None:
    """A retry policy that cannot be is found with its place, and chained with its cause."""
    where = r"\['orders'\]\['RETRY'\]"
    with (
        publishers(BACKEND=DUMMY, RETRY=retry),
        pytest.raises(BackendConfigurationError, match=where) as caught,
    ):
        backends.retry_policy("orders")
    assert type(caught.value.__cause__) is cause


def test_retry_of_a_backend_goes_over_the_general_one() -> None:
    """RETRY of an entry is laid over OUTBOX_RETRY, and that over the policy's defaults."""
    with (
        publishers(BACKEND=DUMMY, RETRY={"initial": 2.0}),
        override_settings(OUTBOX_RETRY={"initial": 5.0, "maximum": 60.0}),
    ):
        policy = backends.retry_policy("orders")
    assert (policy.initial, policy.maximum, policy.factor) == (2.0, 60.0, 8.0)


def test_public_names_are_there() -> None:
    """Every name of the package's `__all__` can be imported, and another one cannot."""
    package = django_broadcaster.backends
    assert all(getattr(package, name) for name in package.__all__)
    with pytest.raises(AttributeError, match="PigeonBackend"):
        package.PigeonBackend  # noqa: B018
