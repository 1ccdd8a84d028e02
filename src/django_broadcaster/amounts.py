"""Numbers of things and durations as text, the same everywhere."""

from __future__ import annotations

UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def counted(number: int, noun: str) -> str:
    """Return a number of things, as in `1 event` and `2,000 events`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(count: int) -> str:
    """Return bytes in the unit that PostgreSQL would show, where 1 MB is 1024 kB."""
    amount, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.3g} {unit}"


def duration(seconds: float) -> str:
    """Return seconds in their two largest units, as the dashboard shows them."""
    if seconds < 0.0005:
        return "0 s"
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms"
    if round(seconds) < 60:
        return f"{seconds:.1f} s".replace(".0 ", " ") if seconds < 10 else f"{seconds:.0f} s"
    for index, (name, size) in enumerate(UNITS[:-1]):
        if seconds >= size:
            rest_name, rest_size = UNITS[index + 1]
            rest = int(seconds % size // rest_size)
            return f"{int(seconds // size)} {name}" + (f" {rest} {rest_name}" if rest else "")
    return "1 min"  # 59.5 s and more, rounded
