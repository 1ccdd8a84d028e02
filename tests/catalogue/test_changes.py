"""`outbox_catalogue --check` fails for each kind of change that breaks consumers, and names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from django_broadcaster.registry import event_registry

from .conftest import EventsModule, catalogue

DATACLASS = """
@typed_event("order.placed", source="/shop", version={version})
@dataclass(frozen=True)
class OrderPlaced:
    order_id: int
    {field}
"""

# Each case: the line of a field before and after, the path in JSON, and the problem.
NONE = "pass"
BREAKING = {
    "field removed": ("note: str", NONE, "note", "was removed; consumers"),
    "field renamed": ("note: str", "text: str", "note", "was removed; consumers"),
    "made optional": (
        "note: str",
        'note: str = ""',
        "note",
        "was required, and is optional; consumers of today",
    ),
    "made required": (
        'note: str = ""',
        "note: str",
        "note",
        "was optional, and is required; events that are already published",
    ),
    "required field added": (NONE, "note: str", "note", "is new, and has no default; events"),
    "type changed": ("total: int", "total: str", "total", "also allows string; consumers"),
    "type widened": ("total: int", "total: int | str", "total", "also allows string; consumers"),
    "type narrowed": ("total: int | str", "total: int", "total", "no longer allows string; events"),
    "null allowed": ("total: int", "total: int | None", "total", "also allows null; consumers"),
    "null forbidden": ("total: int | None", "total: int", "total", "no longer allows null; events"),
    "format changed": ("at: date", "at: UUID", "at", "has format 'uuid', after 'date'; events"),
    "number to text": ("total: int", "total: Decimal", "total", "also allows string; consumers"),
    "time to text": ("at: datetime", "at: str", "at", "has format none, after 'date-time'; consum"),
    "text to times": (
        "at: list[str]",
        "at: list[datetime]",
        "at",
        "has format 'date-time', after none; events",
    ),
    "value added": (
        "state: Literal['new', 'paid']",
        "state: Literal['new', 'paid', 'sent']",
        "state",
        "has the new value 'sent'; consumers",
    ),
    "value removed": (
        "state: Literal['new', 'paid']",
        "state: Literal['new']",
        "state",
        "no longer has the value 'paid'; events",
    ),
    "values listed": (
        "state: str",
        "state: Literal['new', 'paid']",
        "state",
        "allows only the values of a list; events",
    ),
    "values not listed": (
        "state: Literal['new', 'paid']",
        "state: str",
        "state",
        "allows any value, and not only those of a list; consumers",
    ),
    "limit raised": (
        "total: Annotated[int, Meta(le=10)]",
        "total: Annotated[int, Meta(le=20)]",
        "total",
        "has maximum 20, after 10; consumers",
    ),
    "limit lowered": (
        "total: Annotated[int, Meta(le=10)]",
        "total: Annotated[int, Meta(le=5)]",
        "total",
        "has maximum 5, after 10; events",
    ),
    "lower limit raised": (
        "total: Annotated[int, Meta(ge=0)]",
        "total: Annotated[int, Meta(ge=1)]",
        "total",
        "has minimum 1, after 0; events",
    ),
    "limit removed": (
        "code: Annotated[str, Meta(max_length=10)]",
        "code: str",
        "code",
        "no longer has maxLength 10; consumers",
    ),
    "limit added": (
        "code: str",
        "code: Annotated[str, Meta(max_length=10)]",
        "code",
        "has the new maxLength 10; events",
    ),
    "pattern changed": (
        "code: Annotated[str, Meta(pattern='^a')]",
        "code: Annotated[str, Meta(pattern='^b')]",
        "code",
        "has pattern '^b', after '^a'; events",
    ),
    "items changed": ("tags: list[int]", "tags: list[str]", "tags", "also allows string"),
    "values of a mapping changed": (
        "tags: dict[str, int]",
        "tags: dict[str, str]",
        "tags",
        "also allows string",
    ),
    "part of a tuple changed": (
        "tags: tuple[int, int]",
        "tags: tuple[int, str]",
        "tags",
        "also allows string",
    ),
    "value of a key added": (
        "tags: dict[Literal['a'], int]",
        "tags: dict[Literal['a', 'b'], int]",
        "tags",
        "has the new value 'b' in its keys; consumers",
    ),
    "value of a key removed": (
        "tags: dict[Literal['a', 'b'], int]",
        "tags: dict[Literal['a'], int]",
        "tags",
        "no longer has the value 'b' in its keys; events",
    ),
    "type of a key narrowed": (
        "tags: dict[str, int]",
        "tags: dict[UUID, int]",
        "tags",
        "has format 'uuid', after none in its keys; events",
    ),
    "type of a key widened": (
        "tags: dict[date, int]",
        "tags: dict[str, int]",
        "tags",
        "has format none, after 'date' in its keys; consumers",
    ),
    "pattern of keys changed": (
        "tags: dict[Annotated[str, Meta(pattern='^a')], int]",
        "tags: dict[Annotated[str, Meta(pattern='^b')], int]",
        "tags",
        "has pattern '^b', after '^a' in its keys; events",
    ),
    "value of a mapping with a pattern changed": (
        "tags: dict[Annotated[str, Meta(pattern='^a')], int]",
        "tags: dict[Annotated[str, Meta(pattern='^a')], str]",
        "tags",
        "also allows string; consumers",
    ),
    "integer to number": ("total: int", "total: float", "total", "also allows number; consumers"),
    "any value allowed": ("total: int", "total: Any", "total", "also allows any value; consumers"),
}


@pytest.mark.parametrize(("before", "after", "field", "problem"), BREAKING.values(), ids=BREAKING)
def test_a_breaking_change_fails_with_the_line_and_the_fix(
    events: EventsModule, tmp_path: Path, before: str, after: str, field: str, problem: str
) -> None:
    """The line is that of the field, or that of the class for a field that is gone."""
    events.declare(DATACLASS.format(version=1, field=before))
    committed = tmp_path / "catalogue"
    assert catalogue("--output", str(committed))[0] == 0
    events.declare(DATACLASS.format(version=1, field=after))
    status, printed = catalogue("--check", str(committed))
    line = events.line_of("class OrderPlaced" if "removed;" in problem else after)
    assert status == 1
    assert f"{line}: order.placed: {field} {problem}" in printed
    assert (
        "Fix: Undo the change, or set version=2 and add a function with "
        "@upcasts(OrderPlaced, from_version=1)."
    ) in printed


@pytest.mark.parametrize(
    ("before", "after", "field", "problem"),
    [case for case in BREAKING.values() if NONE not in case],
    ids=[name for name, case in BREAKING.items() if NONE not in case],
)
def test_a_new_version_with_an_upcaster_passes(
    events: EventsModule, tmp_path: Path, before: str, after: str, field: str, problem: str
) -> None:
    """The same changes are compatible if an upcaster reads the old events."""
    upcaster = """
@upcasts(OrderPlaced, from_version=1)
def from_1(data):
    return data
"""
    events.declare(DATACLASS.format(version=1, field=before))
    catalogue("--output", str(tmp_path / "catalogue"))
    events.declare(DATACLASS.format(version=2, field=after) + upcaster)
    status, printed = catalogue("--check", str(tmp_path / "catalogue"))
    assert status == 0
    assert "order.placed has version 2, after 1. Deploy its consumers before its publ" in printed
    assert "Write the catalogue again: manage.py outbox_catalogue --output" in printed


def test_a_new_version_without_an_upcaster_fails(events: EventsModule, tmp_path: Path) -> None:
    """Events of the old version would become dead letters."""
    events.declare(DATACLASS.format(version=1, field="note: str"))
    catalogue("--output", str(tmp_path / "catalogue"))
    events.declare(DATACLASS.format(version=2, field="note: int"))
    status, printed = catalogue("--check", str(tmp_path / "catalogue"))
    assert status == 1
    assert "order.placed has version 2, and no upcaster from version 1." in printed
    assert "Fix: Add a function with @upcasts(OrderPlaced, from_version=1)." in printed


def test_an_older_version_fails(events: EventsModule, tmp_path: Path) -> None:
    """Events of the newer version can't be read any more."""
    events.declare(DATACLASS.format(version=2, field="note: str"))
    catalogue("--output", str(tmp_path / "catalogue"))
    events.declare(DATACLASS.format(version=1, field="note: str"))
    status, printed = catalogue("--check", str(tmp_path / "catalogue"))
    assert status == 1
    assert "order.placed has version 1, after version 2." in printed


RECEIVED = """
@event_registry.register("order.placed", name="book", consumer="shop")
def book(event):
    pass
"""

UPCASTER = """
@upcasts(OrderPlaced, from_version={0})
def from_{0}(data):
    return data
"""


@pytest.mark.parametrize("handlers", ["", RECEIVED], ids=["sent", "received"])
@pytest.mark.parametrize(
    ("version", "upcasters", "missing"), [(3, [2], [1]), (4, [3], [1, 2]), (4, [1, 2], [3])]
)
def test_an_upcaster_that_was_removed_fails(
    events: EventsModule,
    tmp_path: Path,
    version: int,
    upcasters: list[int],
    missing: list[int],
    handlers: str,
) -> None:
    """Events that the class could read before would become dead letters."""

    def declare(version: int, upcasters: list[int]) -> None:
        functions = "".join(UPCASTER.format(each) for each in upcasters)
        events.declare(DATACLASS.format(version=version, field=NONE) + functions + handlers)

    declare(3, [1, 2])
    catalogue("--output", str(tmp_path / "catalogue"))
    if handlers:
        event_registry.unregister("book")
    declare(version, upcasters)
    status, printed = catalogue("--check", str(tmp_path / "catalogue"))
    assert status == 1
    for each in range(1, version):
        problem = f"order.placed has version {version}, and no upcaster from version {each}."
        assert (problem in printed) == (each in missing)
        fix = f"Fix: Add a function with @upcasts(OrderPlaced, from_version={each})."
        assert (fix in printed) == (each in missing)


@pytest.mark.parametrize("version", [1, 2])
def test_another_source_of_a_sent_event_fails(
    events: EventsModule, tmp_path: Path, version: int
) -> None:
    """Consumers identify an event by its source and id; a new version does not help them."""
    events.declare(DATACLASS.format(version=1, field=NONE))
    catalogue("--output", str(tmp_path / "catalogue"))
    text = DATACLASS.format(version=version, field=NONE).replace('"/shop"', '"/store"')
    events.declare(text + (UPCASTER.format(1) if version == 2 else ""))
    status, printed = catalogue("--check", str(tmp_path / "catalogue"))
    assert status == 1
    assert "order.placed has source '/store', after '/shop'; consumers identify an ev" in printed
    assert "Fix: Set source='/shop'." in printed


def test_another_source_of_a_received_event_passes(events: EventsModule, tmp_path: Path) -> None:
    """The source of an event of another service is not decided here."""
    text = DATACLASS.format(version=1, field=NONE) + RECEIVED
    events.declare(text)
    catalogue("--output", str(tmp_path / "catalogue"))
    event_registry.unregister("book")
    events.declare(text.replace('"/shop"', '"/store"'))
    assert catalogue("--check", str(tmp_path / "catalogue"))[0] == 0


def test_a_removed_event_fails_with_the_file_of_its_class(
    events: EventsModule, tmp_path: Path
) -> None:
    """Its consumers would wait for it in vain."""
    events.declare(DATACLASS.format(version=1, field="note: str"))
    file = events.file
    catalogue("--output", str(tmp_path / "catalogue"))
    events.declare("")
    status, printed = catalogue("--check", str(tmp_path / "catalogue"))
    assert status == 1
    assert f"{file}: order.placed was removed." in printed
    assert "Fix: Restore OrderPlaced" in printed


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        ("note: str", NONE, 0),
        ("note: str", 'note: str = ""', 0),
        ("total: int", "total: int | None", 0),
        ("total: int", "total: float", 0),
        ('note: str = ""', "note: str", 1),
        ("total: int | None", "total: int", 1),
        ("total: int", "total: str", 1),
    ],
)
def test_events_of_other_services_must_only_stay_readable(
    events: EventsModule, tmp_path: Path, before: str, after: str, status: int
) -> None:
    """A class that only reads may accept more, and may leave fields out."""
    events.declare(DATACLASS.format(version=1, field=before) + RECEIVED)
    catalogue("--output", str(tmp_path / "catalogue"))
    event_registry.unregister("book")
    events.declare(DATACLASS.format(version=1, field=after) + RECEIVED)
    assert catalogue("--check", str(tmp_path / "catalogue"))[0] == status


def test_an_event_that_is_no_longer_sent_fails(events: EventsModule, tmp_path: Path) -> None:
    """Its consumers would wait for it in vain, although the class is still there."""
    events.declare(DATACLASS.format(version=1, field=NONE))
    catalogue("--output", str(tmp_path / "catalogue"))
    events.declare(DATACLASS.format(version=1, field=NONE) + RECEIVED)
    status, printed = catalogue("--check", str(tmp_path / "catalogue"))
    assert status == 1
    assert f"{events.line_of('class OrderPlaced')}: order.placed is no longer sent." in printed


COMPATIBLE = {
    "optional field added": (NONE, 'note: str = ""'),
    "optional field removed": ('note: str = ""', NONE),
    "default changed": ('note: str = ""', 'note: str = "none"'),
    "description changed": ("note: str", "note: Annotated[str, Meta(description='A note.')]"),
}


@pytest.mark.parametrize(("before", "after"), COMPATIBLE.values(), ids=COMPATIBLE)
def test_a_compatible_change_passes_with_a_hint(
    events: EventsModule, tmp_path: Path, before: str, after: str
) -> None:
    """The committed catalogue is out of date, which is no reason to fail."""
    events.declare(DATACLASS.format(version=1, field=before))
    catalogue("--output", str(tmp_path / "catalogue"))
    events.declare(DATACLASS.format(version=1, field=after))
    status, printed = catalogue("--check", str(tmp_path / "catalogue" / "asyncapi.json"))
    assert status == 0
    assert "The changes are compatible. Write the catalogue again:" in printed


def test_no_change_passes(events: EventsModule, tmp_path: Path) -> None:
    """A catalogue that has just been written is up to date."""
    events.declare(DATACLASS.format(version=1, field="at: datetime"))
    catalogue("--output", str(tmp_path / "catalogue"))
    expected = (0, "The catalogue is up to date.\n")
    assert catalogue("--check", str(tmp_path / "catalogue")) == expected


NESTED = {
    "dataclass": """
@dataclass
class Line:
    product: str
    {field}

@typed_event("order.placed", source="/shop")
@dataclass
class OrderPlaced:
    lines: list[Line]
""",
    "TypedDict": """
class Line(TypedDict):
    product: str
    {field}

@typed_event("order.placed", source="/shop")
class OrderPlaced(TypedDict):
    lines: list[Line]
""",
    "pydantic": """
class Line(BaseModel):
    product: str
    {field}

@typed_event("order.placed", source="/shop")
class OrderPlaced(BaseModel):
    rows: list[Line] = Field(alias="lines")
""",
    "msgspec": """
class Line(Struct):
    product: str
    {field}

@typed_event("order.placed", source="/shop")
class OrderPlaced(Struct):
    rows: list[Line] = field(name="lines")
""",
}


@pytest.mark.parametrize("kind", NESTED)
@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("price: int", "price: str", "also allows string"),
        ("price: datetime", "price: str", "has format none, after 'date-time'"),
        ("price: time | None", "price: str | None", "has format none, after 'time'"),
        ("price: dict[str, datetime]", "price: dict[str, str]", "has format none, after"),
    ],
)
def test_the_line_is_that_of_a_class_within(
    events: EventsModule, tmp_path: Path, kind: str, before: str, after: str, problem: str
) -> None:
    """Changes in each kind of class are found, also below an alias."""
    events.declare(NESTED[kind].format(field=before))
    catalogue("--output", str(tmp_path / "catalogue"))
    events.declare(NESTED[kind].format(field=after))
    status, printed = catalogue("--check", str(tmp_path / "catalogue"))
    assert status == 1
    assert f"{events.line_of(after)}: order.placed: lines.price {problem}" in printed


def test_the_line_of_an_inherited_field_is_that_of_its_base(
    events: EventsModule, tmp_path: Path
) -> None:
    """A base class has the field, and several events can share it."""
    text = """
@dataclass
class Base:
    {field}

@typed_event("order.placed", source="/shop")
@dataclass
class OrderPlaced(Base):
    note: str
"""
    events.declare(text.format(field="order_id: int"))
    catalogue("--output", str(tmp_path / "catalogue"))
    events.declare(text.format(field="order_id: str"))
    _, printed = catalogue("--check", str(tmp_path / "catalogue"))
    assert f"{events.line_of('order_id: str')}: order.placed: order_id" in printed


@pytest.mark.parametrize("children", ["list[Node]", "Node | None", "dict[str, Node | int]"])
@pytest.mark.parametrize("base", ["BaseModel", "Struct"])
def test_a_class_with_fields_of_its_own_type_is_compared(
    events: EventsModule, tmp_path: Path, base: str, children: str
) -> None:
    """A tree ends, and a change in it is found."""
    text = f"""
@typed_event("node.added", source="/shop")
class Node({base}):
    {{field}}
    children: {children}
"""
    events.declare(text.format(field="name: str"))
    catalogue("--output", str(tmp_path / "catalogue"))
    assert catalogue("--check", str(tmp_path / "catalogue"))[0] == 0
    events.declare(text.format(field="name: int"))
    status, printed = catalogue("--check", str(tmp_path / "catalogue"))
    assert status == 1
    assert f"{events.line_of('name: int')}: node.added: name also allows integer" in printed


@pytest.mark.parametrize("rules", ["extra='forbid'", ""], ids=["forbids", "allows"])
def test_unknown_fields_matter_where_consumers_forbid_them(
    events: EventsModule, tmp_path: Path, rules: str
) -> None:
    """A new field breaks consumers whose class forbids unknown fields, and no others."""
    text = f"""
@typed_event("order.placed", source="/shop")
class OrderPlaced(BaseModel):
    model_config = dict({rules})
    order_id: int
    """
    events.declare(text)
    catalogue("--output", str(tmp_path / "catalogue"))
    events.declare(text + "note: str = ''")
    status, printed = catalogue("--check", str(tmp_path / "catalogue"))
    assert status == (1 if rules else 0)
    assert ("note is new, where unknown fields are forbidden" in printed) == bool(rules)


MODEL = """
class Color(Enum):
    red = "red"
    {color}

@typed_event("order.placed", source="/shop")
class OrderPlaced(BaseModel):
    {field}
"""

PYDANTIC = {
    "value of an enumeration of keys": (
        ("pass", "tags: dict[Color, int]"),
        ("blue = 'blue'", "tags: dict[Color, int]"),
        "tags has the new value 'blue' in its keys; consumers",
    ),
    "keys with a format": (
        ("pass", "tags: dict[str, int]"),
        ("pass", "tags: dict[UUID, int]"),
        "tags has format 'uuid', after none in its keys; events",
    ),
    "values of keys with a pattern": (
        ("pass", "tags: dict[Annotated[str, Field(pattern='^a')], int]"),
        ("pass", "tags: dict[Annotated[str, Field(pattern='^a')], str]"),
        "tags also allows string; consumers",
    ),
    "pattern of keys": (
        ("pass", "tags: dict[Annotated[str, Field(pattern='^a')], int]"),
        ("pass", "tags: dict[Annotated[str, Field(pattern='^b')], int]"),
        "tags has keys of the new pattern '^b'; events",
    ),
    "constraint beside a union": (
        ("pass", "code: Annotated[int | str, Field(max_length=5)]"),
        ("pass", "code: Annotated[int | str, Field(max_length=3)]"),
        "code has maxLength 3, after 5; events",
    ),
    "keyword beside a reference": (
        ("pass", "code: Annotated[Color, Field(json_schema_extra={'maxLength': 5})]"),
        ("pass", "code: Annotated[Color, Field(json_schema_extra={'maxLength': 4})]"),
        "code has maxLength 4, after 5; events",
    ),
    "keyword of another kind": (
        ("pass", "code: Annotated[str, Field(json_schema_extra={'not': {'const': 'a'}})]"),
        ("pass", "code: Annotated[str, Field(json_schema_extra={'not': {'const': 'b'}})]"),
        "code has another not; events",
    ),
    "further items of a tuple": (
        ("pass", "tags: Annotated[list[int], Field(json_schema_extra={'prefixItems': [{}]})]"),
        ("pass", "tags: Annotated[list[str], Field(json_schema_extra={'prefixItems': [{}]})]"),
        "tags also allows string; consumers",
    ),
}


@pytest.mark.parametrize(("before", "after", "problem"), PYDANTIC.values(), ids=PYDANTIC)
def test_a_breaking_change_in_a_schema_of_pydantic_fails(
    events: EventsModule,
    tmp_path: Path,
    before: tuple[str, str],
    after: tuple[str, str],
    problem: str,
) -> None:
    """Keys, keywords beside unions and references, and keywords of any kind are compared."""
    events.declare(MODEL.format(color=before[0], field=before[1]))
    catalogue("--output", str(tmp_path / "catalogue"))
    assert catalogue("--check", str(tmp_path / "catalogue"))[0] == 0
    events.declare(MODEL.format(color=after[0], field=after[1]))
    status, printed = catalogue("--check", str(tmp_path / "catalogue"))
    assert status == 1
    assert f"{events.line_of(after[1])}: order.placed: {problem}" in printed


@pytest.mark.parametrize("keyword", ["example", "description", "x-team", "default"])
def test_annotations_may_change(events: EventsModule, tmp_path: Path, keyword: str) -> None:
    """A keyword that allows and forbids no value, or that begins with x-, breaks no consumer."""
    text = "code: Annotated[str, Field(json_schema_extra={{'{0}': '{1}'}})]"
    events.declare(MODEL.format(color="pass", field=text.format(keyword, "a")))
    catalogue("--output", str(tmp_path / "catalogue"))
    events.declare(MODEL.format(color="pass", field=text.format(keyword, "b")))
    status, printed = catalogue("--check", str(tmp_path / "catalogue"))
    assert status == 0
    assert "The changes are compatible." in printed


UNION = """
class Card(BaseModel):
    kind: Literal["card"]
    number: {number}

class Cash(BaseModel):
    kind: Literal["cash"]

class Voucher(BaseModel):
    kind: Literal["voucher"]

@typed_event("order.paid", source="/shop")
class OrderPaid(BaseModel):
    by: Annotated[{union}, Field(discriminator="kind")]
"""


@pytest.mark.parametrize(
    ("number", "union", "place", "problem"),
    [
        ("int", "Cash | Card", "", ""),
        ("str", "Card | Cash", "number: str", "by.number also allows string; consumers"),
        ("int", "Card | Cash | Voucher", "by: Ann", "by also allows object Voucher; consumers"),
        ("int", "Card | Voucher", "by: Ann", "by no longer allows object Cash; events"),
    ],
)
def test_classes_of_a_union_are_compared_by_their_names(
    events: EventsModule, tmp_path: Path, number: str, union: str, place: str, problem: str
) -> None:
    """Their order does not matter; a class that is new breaks consumers, as a new value does."""
    events.declare(UNION.format(number="int", union="Card | Cash"))
    catalogue("--output", str(tmp_path / "catalogue"))
    events.declare(UNION.format(number=number, union=union))
    status, printed = catalogue("--check", str(tmp_path / "catalogue"))
    assert status == bool(problem)
    if problem:
        assert f"{events.line_of(place)}: order.paid: {problem}" in printed
