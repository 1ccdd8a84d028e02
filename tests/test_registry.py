"""Which handlers an event has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from inspect import signature
from typing import Any, get_type_hints
from unittest.mock import Mock

import pytest
from asgiref.sync import async_to_sync

from django_broadcaster import registry as registry_module
from django_broadcaster import signals
from django_broadcaster.events import CloudEvent
from django_broadcaster.registry import (
    EventHandlerRegistry,
    Handler,
    HandlerOptions,
    event_registry,
)


def greet(event: CloudEvent) -> None:
    """A handler."""


def bill(event: CloudEvent) -> None:
    """Another handler."""


@pytest.fixture
def registry() -> EventHandlerRegistry:
    """An empty registry."""
    return EventHandlerRegistry()


def functions(registry: EventHandlerRegistry, event_type: str) -> list[Any]:
    """The functions that an event of that type would run, in order."""
    return [handler.function for handler in registry.handlers_for(event_type)]


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("order.placed", ["order.placed"], ["order.place", "order.placed.late", "Order.placed"]),
        ("order.*", ["order.placed", "order.", "order.a.b"], ["order", "reorder.placed"]),
        ("*.placed", ["order.placed", ".placed"], ["order.placed.late", "placed"]),
        ("*", ["order.placed", "größe"], []),
        ("order.?", ["order.a", "order.😀"], ["order.", "order.ab"]),
        ("order.[ab]", ["order.a"], ["order.c", "order.[ab]"]),
        ("ORDER.*", ["ORDER.placed"], ["order.placed"]),
    ],
)
def test_pattern_matches_the_whole_type(
    registry: EventHandlerRegistry, pattern: str, matching: list[str], others: list[str]
) -> None:
    """A shell-style pattern matches the event type from end to end, in its exact case."""
    registry.register(pattern)(greet)
    assert [each for each in [*matching, *others] if registry.handlers_for(each)] == matching


def test_handlers_run_in_the_order_of_their_registration(registry: EventHandlerRegistry) -> None:
    """Every handler that matches is found, the first registered first."""
    registry.register("order.*")(greet)
    registry.register("*")(bill)
    assert functions(registry, "order.placed") == [greet, bill]
    assert functions(registry, "invoice.sent") == [bill]


def test_function_of_several_patterns_runs_once(registry: EventHandlerRegistry) -> None:
    """A function that was registered for several patterns is one handler."""

    @registry.register("order.*")
    @registry.register("*.placed")
    def both(event: CloudEvent) -> None: ...

    assert [len(registry.handlers_for(each)) for each in ("order.placed", "a.placed", "a")] == [
        *(1, 1, 0)
    ]
    assert len(registry) == 1


class Shop:
    """A service whose method is a handler."""

    def ship(self, event: CloudEvent) -> None:
        """Handle an event."""


@pytest.mark.parametrize("name", [None, "ship"])
def test_bound_method_of_several_patterns_runs_once(
    registry: EventHandlerRegistry, name: str | None
) -> None:
    """Each access makes another bound method; those of one object are one handler."""
    shop, other = Shop(), Shop()
    for pattern in ("order.*", "*.placed"):
        registry.register(pattern, name=name)(shop.ship)
    assert functions(registry, "order.placed") == [shop.ship]
    registry.register("order.*", name="other")(other.ship)
    assert functions(registry, "order.placed") == [shop.ship, other.ship]
    registry.unregister(name or f"{__name__}.Shop.ship")
    assert functions(registry, "order.placed") == [other.ship]


def test_the_options_of_register_are_those_of_their_type() -> None:
    """Type checkers read `HandlerOptions`, and Python the method itself."""
    parameters = signature(EventHandlerRegistry.register).parameters.values()
    hints = get_type_hints(EventHandlerRegistry.register)
    options = {each.name: hints[each.name] for each in parameters if each.kind is each.KEYWORD_ONLY}
    assert options == get_type_hints(HandlerOptions)


def test_decorator_returns_the_function_itself(registry: EventHandlerRegistry) -> None:
    """A handler can still be called, and imported, as what it was."""
    assert registry.register("order.*")(greet) is greet


def test_name_is_the_dotted_path_or_what_was_given(registry: EventHandlerRegistry) -> None:
    """The name, by which the inbox knows the handler, outlives a rename only if it is given."""
    registry.register("order.*")(greet)
    registry.register("order.*", name="billing")(bill)
    registry.register("order.*", name="partial")(partial(greet))
    assert [handler.name for handler in registry] == [f"{__name__}.greet", "billing", "partial"]


def test_name_of_another_function_is_refused(registry: EventHandlerRegistry) -> None:
    """Two handlers of one name would hide each other in the inbox."""
    registry.register("order.*", name="billing")(greet)
    with pytest.raises(ValueError, match="another handler is 'billing'"):
        registry.register("invoice.*", name="billing")(bill)
    assert functions(registry, "invoice.sent") == []


def test_function_of_two_names_is_two_handlers(registry: EventHandlerRegistry) -> None:
    """The name is the handler's identity, not the function."""
    registry.register("*", name="one")(greet)
    registry.register("*", name="two")(greet)
    assert functions(registry, "order.placed") == [greet, greet]


def test_empty_pattern_is_refused(registry: EventHandlerRegistry) -> None:
    """A handler that could never run is an error at once."""
    with pytest.raises(ValueError, match=r"^event_type: "):
        registry.register("")


async def asynchronous(event: CloudEvent) -> None:
    """Do nothing until somebody waits for it."""


def generate(event: CloudEvent) -> Iterator[CloudEvent]:
    """Yield, and do nothing until somebody asks."""
    yield event


def with_more(event: CloudEvent, more: int) -> None:
    """Take something besides the event."""


async def generate_async(event: CloudEvent) -> AsyncIterator[CloudEvent]:
    """Yield, and do nothing until somebody asks."""
    yield event


@pytest.mark.parametrize("function", [generate, generate_async], ids=["plain", "async"])
def test_a_generator_is_refused(registry: EventHandlerRegistry, function: Any) -> None:
    """To call it would count as handled, and do nothing."""
    with pytest.raises(TypeError, match="must not be generators"):
        registry.register("order.*", name="handler")(function)
    assert len(registry) == 0


def test_what_is_advised_works(registry: EventHandlerRegistry) -> None:
    """A function in `async_to_sync()`, or in `partial()`, has the name of what is in it."""
    registry.register("order.*")(async_to_sync(asynchronous))
    registry.register("order.*")(partial(with_more, more=1))
    names = [handler.name for handler in registry]
    assert names == [f"{__name__}.asynchronous", f"{__name__}.with_more"]


@pytest.mark.parametrize("function", [object(), Mock()], ids=["an object", "a mock"])
def test_what_has_no_path_needs_a_name(registry: EventHandlerRegistry, function: Any) -> None:
    """An instance has no dotted path, whatever attributes it has."""
    with pytest.raises(TypeError, match=r"pass name= to register\(\)"):
        registry.register("order.*")(function)
    if callable(function):
        registry.register("order.*", name="mock")(function)
        assert [handler.is_async for handler in registry] == [False]


def test_a_decorator_without_its_pattern_is_refused(registry: EventHandlerRegistry) -> None:
    """It would register nothing, without a word."""
    with pytest.raises(TypeError, match=r"register\('order.\*'\)"):

        @registry.register  # type: ignore[arg-type]
        def handler(event: CloudEvent) -> None:
            """Never be called."""


def test_unregister_forgets_a_handler(registry: EventHandlerRegistry) -> None:
    """A handler goes by its name, and one that is not there is a KeyError."""
    registry.register("*", name="greet")(greet)
    registry.unregister("greet")
    assert list(registry) == []
    with pytest.raises(KeyError):
        registry.unregister("greet")


def test_handlers_are_values() -> None:
    """A handler is immutable, and equal by value."""
    handler = Handler("name", greet, ("*",))
    assert handler == Handler("name", greet, ("*",))
    with pytest.raises(AttributeError):
        handler.name = "other"  # type: ignore[misc]


def test_registry_of_the_project_is_one_of_them() -> None:
    """`event_registry` is what applications register with."""
    assert isinstance(event_registry, EventHandlerRegistry)


# --- The documented calls of version 0.1 ---------------------------------------------------------


def test_without_an_event_type_a_handler_gets_every_event(registry: EventHandlerRegistry) -> None:
    """`register()` is for every event, also where an exact type has handlers of its own."""
    registry.register()(greet)
    registry.register("order.placed")(bill)
    assert functions(registry, "order.placed") == [greet, bill]
    assert functions(registry, "") == functions(registry, "invoice.sent") == [greet]


def test_get_handlers_returns_functions(registry: EventHandlerRegistry) -> None:
    """For a type, those of every event included; without one, these alone."""
    registry.register()(greet)
    registry.register("order.*")(bill)
    assert registry.get_handlers("order.placed") == [greet, bill]
    assert registry.get_handlers("invoice.sent") == registry.get_handlers() == [greet]


def test_clear_handlers_forgets_one_type_or_all(registry: EventHandlerRegistry) -> None:
    """A function that has other types as well keeps these."""
    registry.register("order.placed")(registry.register("order.paid")(greet))
    registry.register("order.placed")(bill)
    registry.register()(bill)
    registry.clear_handlers("order.placed")
    assert registry.get_handlers("order.placed") == [bill], "as a handler of every event"
    assert registry.get_handlers("order.paid") == [greet, bill]
    registry.clear_handlers()
    assert (len(registry), registry.get_handlers("order.paid")) == (0, [])


def test_handle_event_runs_every_handler(
    registry: EventHandlerRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """True if none raised; one that raises is logged, without its text, and the others run."""
    event = CloudEvent("order.placed", "/shop", {"card": "4242"})
    seen: list[CloudEvent] = []

    @registry.register("order.*")
    def broken(event: CloudEvent) -> None:
        raise ValueError(f"card {event.data['card']}")

    registry.register(name="note")(seen.append)
    assert registry.handle_event(event) is False
    assert seen == [event]
    assert "broken failed with ValueError" in caplog.text
    assert "4242" not in caplog.text
    registry.clear_handlers("order.*")
    assert registry.handle_event(event) is True


def undecorated(function: Any) -> Any:
    """Wrap a function without keeping its name."""

    def wrapper(event: CloudEvent) -> None:
        function(event)

    return wrapper


WRAPPER = f"{__name__}.undecorated.<locals>.wrapper"


@pytest.mark.parametrize("order", [1, -1], ids=["as written", "the other way"])
def test_functions_of_one_path_are_told_apart_by_their_type(
    registry: EventHandlerRegistry, order: int
) -> None:
    """A decorator without `functools.wraps` gives all handlers one path, and each is registered.

    Their names do not depend on the order in which they are imported.
    """
    one, two = undecorated(greet), undecorated(bill)
    for event_type, function in [("order.placed", one), ("order.paid", two)][::order]:
        registry.register(event_type)(function)
    assert {handler.name: handler.function for handler in registry} == {
        f"{WRAPPER}(order.placed)": one,
        f"{WRAPPER}(order.paid)": two,
    }
    assert [handler.function for handler in registry] == [one, two][::order]
    with pytest.raises(ValueError, match=r"pass name= to register\(\)"):
        registry.register("order.paid")(undecorated(greet))


def test_functions_of_one_path_and_one_type_need_names(registry: EventHandlerRegistry) -> None:
    """Nothing but the order of their import would tell them apart; the first one is kept."""
    one = undecorated(greet)
    registry.register()(one)
    with pytest.raises(ValueError, match=r"pass name= to register\(\)"):
        registry.register()(undecorated(bill))
    assert [(handler.name, handler.function) for handler in registry] == [(WRAPPER, one)]
    registry.register(name="bill")(undecorated(bill))
    assert [handler.name for handler in registry] == [WRAPPER, "bill"]


def test_function_of_a_shared_path_and_several_types_runs_once(
    registry: EventHandlerRegistry,
) -> None:
    """It stays one handler, by the name of its first type, whenever the other one is registered."""
    one, two = undecorated(greet), undecorated(bill)
    registry.register("order.*")(one)
    registry.register("invoice.sent")(two)
    registry.register("*.placed")(one)
    assert functions(registry, "order.placed") == [one]
    assert [handler.name for handler in registry] == [
        f"{WRAPPER}(order.*)",
        f"{WRAPPER}(invoice.sent)",
    ]


def test_signals_can_be_imported_from_the_registry() -> None:
    """`event_created` and `event_published` are those of `signals`."""
    assert registry_module.event_created is signals.event_created
    assert registry_module.event_published is signals.event_published
