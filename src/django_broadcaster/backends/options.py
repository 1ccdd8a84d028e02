"""How backends read options: one method, one rule and one wording for each kind of value.

A backend reads its own in the constructor, by `self.read`. It reads those of an event, its
`publisher_config`, in a publish call by `self.read_config`, and in `send` by
`self.read_message_config`:

    self.timeout = self.read.seconds("timeout", timeout)
    self.connections = self.read.integer("connections", connections, 1, 100)
    self.tls = self.read.tls(tls)
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from reprlib import Repr
from ssl import SSLContext
from typing import Any, Final, NoReturn, TypeGuard, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from django_broadcaster.redaction import SECRET_NAME
from django_broadcaster.setting_rules import (
    BOOLEAN,
    POSITIVE_SECONDS,
    Rule,
    is_number,
    is_whole,
    whole,
)

from .credentials import TLS, TLS_KEYS, Login
from .names import Escape, Template
from .text import is_utf8

T = TypeVar("T")

PORT: Final = Rule(
    "a port number from 1 to 65535", lambda value: is_whole(value, 1) and value < 2**16
)

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_repr = Repr()
_repr.maxstring = _repr.maxother = 60


class OptionReader:
    """Reads the options of one backend, or of one event.

    Each method takes the name and the value of an option. It returns the value, or raises an error
    that names the option, the rule, and the value unless that may be a secret. With `optional=True`
    the value may be None.

    Args:
        error: Returns the error for an option, from its name and a text such as "must be ...".
    """

    def __init__(self, error: Callable[[str, str], Exception]) -> None:
        self._error = error

    # --- Rules of a backend's own ------------------------------------------------------------

    def refuse(self, name: str, problem: str) -> NoReturn:
        """Raise the error for an option; `problem` continues its name, as "must be ..." does."""
        raise self._error(name, problem)

    def check(self, name: str, problem: str | None) -> None:
        """Raise the error for an option if there is a problem with it."""
        if problem:
            self.refuse(name, problem)

    def require(self, name: str, value: T, holds: bool, rule: str, *, optional: bool = False) -> T:
        """Return the value if the rule holds; else raise "must be `rule`, not `value`"."""
        if not holds and not (optional and value is None):
            rule += ", or None" if optional else ""
            self.refuse(name, f"must be {rule}{_not(name, value)}")
        return value

    def _judge(self, name: str, value: T, rule: Rule, *, optional: bool = False) -> T:
        return self.require(name, value, rule.accepts(value), rule.wanted, optional=optional)

    def within(self, name: str) -> OptionReader:
        """Return a reader for the keys of an option that is a dictionary."""
        return OptionReader(lambda key, problem: self._error(name, f"{key!r} {problem}"))

    # --- Numbers and flags -------------------------------------------------------------------

    def seconds(
        self,
        name: str,
        value: T,
        least: float | None = None,
        most: float = math.inf,
        *,
        optional: bool = False,
    ) -> T:
        """Read a duration: any above 0 or, with `least`, from `least` to `most` seconds."""
        rule = POSITIVE_SECONDS
        if least is not None:
            wanted = f"a number of seconds from {least} to {most}"
            rule = Rule(wanted, lambda number: is_number(number) and least <= number <= most)
        return self._judge(name, value, rule, optional=optional)

    def integer(
        self,
        name: str,
        value: T,
        least: int,
        most: int | None = None,
        *,
        unit: str = "",
        optional: bool = False,
    ) -> T:
        """Read a whole number from `least` to `most`, which may be open."""
        return self._judge(name, value, whole(unit, least, most), optional=optional)

    def port(self, name: str, value: T, *, optional: bool = False) -> T:
        """Read the number of a port."""
        return self._judge(name, value, PORT, optional=optional)

    def flag(self, name: str, value: T) -> T:
        """Read True or False."""
        return self._judge(name, value, BOOLEAN)

    def choice(self, name: str, value: T, choices: Iterable[object]) -> T:
        """Read one of a few values."""
        known = list(choices)
        *others, last = map(repr, known)
        rule = f"{', '.join(others)} or {last}" if others else last
        return self.require(name, value, any(value == each for each in known), rule)

    # --- Text --------------------------------------------------------------------------------

    def text(
        self,
        name: str,
        value: T,
        most: int | None = None,
        *,
        empty: bool = False,
        plain: bool = False,
        optional: bool = False,
    ) -> T:
        """Read text.

        Args:
            most: The longest that it may be, in bytes.
            empty: Whether it may be empty.
            plain: Whether it must have no control characters.
        """
        text: Any = value
        wanted = "a string" if empty else "a non-empty string"
        wanted += "" if most is None else f" of at most {most} bytes"
        wanted += " without control characters" if plain else ""
        holds = isinstance(text, str) and (empty or text != "") and is_utf8(text)
        holds = holds and (most is None or len(text.encode()) <= most)
        holds = holds and not (plain and _CONTROL.search(text))
        return self.require(name, value, holds, wanted, optional=optional)

    def template(
        self,
        name: str,
        value: Any,
        escape: Escape,
        problem: Callable[[str], str | None] | None = None,
    ) -> Template:
        """Read a template of names; `problem` says what is wrong with a name that it makes."""
        self.text(name, value)
        try:
            template = Template(value, escape)
        except ValueError as error:
            self.refuse(name, str(error))
        if problem is not None:
            self.check(name, problem(template.filled(lambda _: "x")))
        return template

    def url(
        self,
        name: str,
        value: Any,
        schemes: Collection[str],
        *,
        needs_host: bool = True,
        credentials: bool = True,
    ) -> SplitResult:
        """Read the URL of a server, and return its parts; no error shows any of it."""
        beginnings = [f"{scheme}://" for scheme in schemes]
        if not isinstance(value, str) or not value:
            shown = value if value in (None, "") else type(value)
            self.require(name, shown, False, f"a URL such as {beginnings[0]}host")
        try:
            parts: SplitResult = urlsplit(value)
            # Behind an unescaped /, ? or # in a password stands no host, and it would be shown.
            hides_host = parts.scheme != "unix" and credentials and "@" in "".join(parts[2:])
            well_formed = parts.port != 0 and not hides_host
        except ValueError:
            well_formed = False
        if not well_formed or any(each.isspace() or not each.isprintable() for each in value):
            problem = "must have a valid host and port; percent-encode special characters"
            self.refuse(name, problem)
        if parts.scheme not in schemes:
            self.refuse(name, f"must begin with {' or '.join(beginnings)}")
        if needs_host and not parts.hostname:
            self.refuse(name, "must name a host")
        if "@" in parts.netloc and not credentials:
            self.refuse(name, "must not contain a user name or password")
        return parts

    def function(self, name: str, value: T, *, optional: bool = False) -> T:
        """Read a function, or the dotted path of one."""
        holds = isinstance(value, str) or callable(value)
        return self.require(name, value, holds, "a function or its dotted path", optional=optional)

    # --- Several values ----------------------------------------------------------------------

    def mapping(
        self,
        name: str,
        value: T,
        known: Collection[str] | None = None,
        *,
        optional: bool = False,
    ) -> T:
        """Read a dictionary whose keys are strings, all of them `known` if that is given."""
        items: Any = value
        holds = isinstance(items, Mapping) and all(isinstance(each, str) for each in items)
        self.require(name, value, holds, "a dictionary", optional=optional)
        unknown = sorted(set(items or ()) - set(known)) if known is not None else ()
        if known is not None and unknown:
            listed = ", ".join(map(repr, sorted(known)))
            self.refuse(name, f"has the unknown key {unknown[0]!r}; known keys: {listed}")
        return value

    def strings(self, name: str, value: T) -> T:
        """Read a list of strings."""
        return self.require(name, value, _are_strings(value), "a list of strings")

    def one_or_more(self, name: str, value: str | Sequence[str], what: str) -> Sequence[str]:
        """Read one string, or a list of them; return a list."""
        values = [value] if isinstance(value, str) and value else value
        holds = _are_strings(values) and len(values) > 0
        self.require(name, value, holds, f"{what} or a list of these")
        return values

    def addresses(self, name: str, value: T) -> T:
        """Read a list of pairs of a host and a port."""
        holds = _is_list(value) and all(map(_is_address, value))
        return self.require(name, value, holds, "a list of pairs (host, port)")

    # --- Options that belong together --------------------------------------------------------

    def together(self, name: str, value: object, other: str, given: object) -> None:
        """Refuse an option that has no effect without another one."""
        if not _is_unset(value) and _is_unset(given):
            self.refuse(name, f"has no effect without {other!r}")

    def apart(self, name: str, value: object, other: str, given: object) -> None:
        """Refuse an option that can't be combined with another one."""
        if not _is_unset(value) and not _is_unset(given):
            self.refuse(name, f"can't be combined with {other!r}")

    # --- Credentials and TLS -----------------------------------------------------------------

    def login(
        self,
        username: str | None,
        password: str | None,
        urls: Mapping[str, Sequence[SplitResult]] | None = None,
        *,
        most: int | None = None,
        needs: Collection[str] = (),
    ) -> Login:
        """Read `username` and `password`, else those in a URL; empty text is not set.

        Args:
            urls: By the name of their option, URLs that may have credentials of their own.
            most: The longest that either may be, in bytes.
            needs: Those of the two that must be given if the other one is.
        """
        self.text("username", username, most, empty=True, optional=True)
        self.text("password", password, most, empty=True, optional=True)
        login = Login(username or None, password or None)
        for option, parts in (urls or {}).items():
            within = [each for each in parts if "@" in each.netloc]
            if within and login:
                problem = "must not contain credentials if 'username' or 'password' is given"
                self.refuse(option, problem)
            if within:
                first = within[0]
                return Login(_decoded(first.username), _decoded(first.password))
        for option, value, other in (
            ("username", login.username, "password"),
            ("password", login.password, "username"),
        ):
            if login and option in needs and value is None:
                self.refuse(option, f"must be given if {other!r} is")
        return login

    def tls(
        self,
        value: object,
        *,
        extra: Collection[str] = (),
        context: bool = False,
        by_url: bool = False,
    ) -> TLS | None:
        """Read `tls`; None for a connection that is not encrypted.

        Args:
            extra: Keys that the client has beside those of every backend.
            context: Whether it may be an `ssl.SSLContext`.
            by_url: Whether the scheme of a URL asks for TLS.
        """
        if value is None or isinstance(value, bool):
            return TLS() if value or by_url else None
        if context and isinstance(value, SSLContext):
            return TLS(own_context=value)
        keys = ", ".join(map(repr, sorted({*TLS_KEYS, *extra})))
        rule = f"True, False{', an ssl.SSLContext' if context else ''} or a dictionary of {keys}"
        self.require("tls", type(value), isinstance(value, Mapping), rule)
        assert isinstance(value, Mapping)
        self.mapping("tls", value, TLS_KEYS | {*extra})
        inner = self.within("tls")
        for key in ("ca_file", "cert_file", "key_file"):
            inner.text(key, value.get(key), optional=True)
        for key in ("verify", "check_hostname"):
            inner.flag(key, value.get(key, True))
        inner.together("key_file", value.get("key_file"), "cert_file", value.get("cert_file"))
        ours = {key: value[key] for key in value.keys() & TLS_KEYS}
        return TLS(**ours, extra={key: value[key] for key in value.keys() - TLS_KEYS})


def _not(name: str, value: object) -> str:
    """Return ", not ..." for a value, or for its type if the value may hold a secret."""
    if isinstance(value, type):
        return f", not {value.__name__}"
    if value is None or isinstance(value, bool | int | float):
        return f", not {value!r}"
    if isinstance(value, str) and not SECRET_NAME.search(name) and "@" not in value:
        return f", not {_repr.repr(value)}"
    return "" if isinstance(value, str) else f", not {type(value).__name__}"


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _are_strings(value: object) -> TypeGuard[Sequence[str]]:
    return _is_list(value) and all(isinstance(each, str) and each for each in value)


def _is_address(value: object) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    host, port = value
    return isinstance(host, str) and host != "" and PORT.accepts(port)


def _is_unset(value: object) -> bool:
    return value is None or value is False or value in ("", (), [], {})


def _decoded(text: str | None) -> str | None:
    return unquote(text) if text else None
