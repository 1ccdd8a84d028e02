"""The exceptions: their tree, and that they survive a trip to another process."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_broadcaster import exceptions
from django_broadcaster.exceptions import (
    MAX_RETRY_AFTER,
    BackendConfigurationError,
    BackendUnavailable,
    BroadcasterError,
    InvalidEvent,
    InvalidPublisherConfig,
    MissingClient,
    PayloadTooLarge,
    PublishError,
    RefusedByDatabase,
    Rejected,
    StatementTooLong,
    TransientError,
    UnknownBackend,
    WrongTransaction,
)

CLASSES = [
    each
    for each in vars(exceptions).values()
    if isinstance(each, type) and each.__module__ == exceptions.__name__
]
EXAMPLES = [
    InvalidEvent("source", "is no URI reference"),
    PayloadTooLarge("default", 1001, 1000),
    StatementTooLong("default", 1001, 1000),
    RefusedByDatabase("database 'default' writes a binary log of statements"),
    UnknownBackend("gone", ("one", "two")),
    UnknownBackend(None, ()),
    InvalidPublisherConfig("unknown key 'a'", "default"),
    InvalidPublisherConfig("must be a dictionary"),
    WrongTransaction("published outside of a transaction"),
    Rejected("too large"),
    TransientError("busy", retry_after=2.5, spends_retry=False),
    BackendConfigurationError("OUTBOX_PUBLISHERS['default'] needs 'BACKEND'"),
    MissingClient("redis", "redis"),
]


def drawn() -> dict[str, str]:
    """Each class of the tree in the docstring, with the one that it hangs from."""
    parents: dict[str, str] = {}
    path: list[str] = []
    lines = [line for line in (exceptions.__doc__ or "").splitlines() if line.strip("│ ")]
    for line in lines[1:]:
        branch = line.lstrip("│├└─ ")
        depth = (len(line) - len(branch)) // 4
        name = branch.split()[0]
        path[depth:] = [name]
        parents[name] = path[depth - 1] if depth else "Exception"
    return parents


def test_tree_in_the_docstring_is_the_real_one() -> None:
    """The drawing names every class, under the class that it derives from."""
    assert drawn() == {each.__name__: each.__bases__[0].__name__ for each in CLASSES}


def test_every_class_says_what_it_means() -> None:
    """Each has a docstring of its own."""
    assert all(each.__doc__ for each in CLASSES)
    assert len({inspect.getdoc(each) for each in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (InvalidEvent, ValueError),
        (PayloadTooLarge, ValueError),
        (InvalidPublisherConfig, ValueError),
        (UnknownBackend, LookupError),
        (WrongTransaction, RuntimeError),
        (BackendConfigurationError, ImproperlyConfigured),
        (MissingClient, ImproperlyConfigured),
    ],
)
def test_errors_are_what_callers_catch_already(
    error: type[BroadcasterError], builtin: type[Exception]
) -> None:
    """Each is also the built-in or Django's error of its meaning."""
    assert issubclass(error, builtin)


def test_publish_errors_name_the_argument() -> None:
    """An error about one argument has its name in `field`, and first in its message."""
    fields = {
        str(each).split(":")[0].split()[0]: each.field
        for each in EXAMPLES
        if isinstance(each, PublishError) and hasattr(each, "field")
    }
    assert fields == {name: name for name in ("source", "data", "backend", "publisher_config")}


@pytest.mark.parametrize("error", EXAMPLES, ids=repr)
@pytest.mark.parametrize("way", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])  # noqa: S301
def test_errors_can_be_pickled_and_copied(error: BroadcasterError, way: object) -> None:
    """A pool of processes or a task queue passes them on with their message and attributes."""
    assert callable(way)
    again = way(error)
    assert type(again) is type(error)
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


@pytest.mark.parametrize(("wanted", "kept"), [(-1.0, 0.0), (0.5, 0.5), (1e12, MAX_RETRY_AFTER)])
def test_wish_to_be_left_alone_has_bounds(wanted: float, kept: float) -> None:
    """`retry_after` is never negative, and never more than a day."""
    assert BackendUnavailable("busy", retry_after=wanted).retry_after == kept
