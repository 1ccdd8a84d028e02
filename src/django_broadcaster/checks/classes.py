"""Checks of classes that a setting names, with their OPTIONS: backends and consumers.

No message shows a value of OPTIONS that may be a password.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from inspect import Parameter, isabstract, signature
from reprlib import repr as shortened
from types import ModuleType
from typing import Any

from django.core.checks import CheckMessage
from django.utils.module_loading import import_string

from ..check_messages import TAG, error, fix_of_key, kind, nearest, unknown_keys, warning
from ..exceptions import BackendConfigurationError
from ..redaction import SECRET_NAME, spellings, without

MAX_ALIAS = 64
"""The longest alias that the columns hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A setting whose entries name a class.

    Args:
        setting: The name of the setting.
        key: The key of an entry with the dotted path of the class.
        package: The package that exports the classes of the project.
        base: The class that they derive from.
        takes_options: The class whose subclasses take their options as keywords.
        usual: The name of a class that a hint proposes.
        usual_alias: An alias that a hint proposes.
        example: The hint for an entry that is not a dictionary.
        entry_keys: The keys that an entry may have.
        wrong_alias, wrong_entry, unknown_key, wrong_class, wrong_options, no_client: The ids of
            the checks.
        who_needs_no_client: The sentence about processes without the client library.
    """

    setting: str
    key: str
    package: ModuleType
    base: type[Any]
    takes_options: type[Any]
    usual: str
    usual_alias: str
    example: str
    entry_keys: frozenset[str]
    wrong_alias: str
    wrong_entry: str
    unknown_key: str
    wrong_class: str
    wrong_options: str
    no_client: str
    who_needs_no_client: str

    def class_at(self, path: object) -> type[Any] | None:
        """Return the class at a dotted path; None if there is no such class."""
        if not isinstance(path, str):
            return None
        try:
            found = import_string(path)
        except Exception:  # its module may raise any exception
            return None
        return found if isinstance(found, type) and issubclass(found, self.base) else None

    def class_hint(self, where: str, path: str) -> str:
        """Return the hint for a wrong path."""
        names = [
            name
            for name in self.package.__all__
            if isinstance(found := getattr(self.package, name), type)
            and issubclass(found, self.base)
            and not isabstract(found)
        ]
        near = nearest(path.rpartition(".")[2], names) or self.usual
        package = self.package.__name__
        return (
            f"Set {where}['{self.key}'] = '{package}.{near}', or the dotted path of another "
            f"subclass of {package}.{self.base.__name__}."
        )


def entry_problems(wanted: Kind, alias: object, entry: object) -> Iterator[CheckMessage]:
    """Yield the errors of an alias, and of an entry that is not a dictionary or has a wrong key."""
    if not isinstance(alias, str) or not 1 <= len(alias) <= MAX_ALIAS:
        message = (
            f"An alias in {wanted.setting} must be a string of 1 to {MAX_ALIAS} characters, "
            f"not {shortened(alias)}."
        )
        fix = f"Rename it in {wanted.setting}, such as to {wanted.usual_alias!r}."
        yield error(wanted.wrong_alias, message, fix)
    where = f"{wanted.setting}[{shortened(alias)}]"
    if isinstance(entry, Mapping):
        yield from unknown_keys(wanted.unknown_key, where, entry, wanted.entry_keys)
    else:
        message = f"{where} must be a dict, not {kind(entry)}."
        yield error(wanted.wrong_entry, message, wanted.example)


def shape_problem(wanted: Kind, where: str, entry: Mapping[str, Any]) -> CheckMessage | None:
    """Return the error of an entry whose path or OPTIONS have a wrong type."""
    path, options = entry.get(wanted.key, ""), entry.get("OPTIONS", {})
    if not isinstance(path, str):
        message = f"{where}['{wanted.key}'] must be a dotted path, not {kind(path)}."
        return error(wanted.wrong_class, message, wanted.class_hint(where, ""))
    if not isinstance(options, Mapping):
        message = f"{where}['OPTIONS'] must be a dict, not {kind(options)}."
        return error(wanted.wrong_options, message, f"Set {where}['OPTIONS'] = {{}}.")
    return None


def client_problem(wanted: Kind, where: str, entry: Mapping[str, Any]) -> CheckMessage | None:
    """Return a warning if the client library of an entry's class is not installed."""
    library = getattr(wanted.class_at(entry.get(wanted.key)), "client_library", None)
    if library is None:
        return None
    module, extra = library
    if _is_installed(module):
        return None
    message = f"{where}: the client library {module!r} is not installed."
    fix = (
        f"Install it: pip install 'django-broadcaster[{extra}]'. {wanted.who_needs_no_client}; "
        f"there, set SILENCED_SYSTEM_CHECKS = ['{TAG}.{wanted.no_client}']."
    )
    return warning(wanted.no_client, message, fix)


def creation_problem(
    wanted: Kind, where: str, entry: Mapping[str, Any], reason: Exception
) -> CheckMessage:
    """Return the error for an exception that was raised when the class was called."""
    path, options = entry.get(wanted.key, ""), entry.get("OPTIONS", {})
    found = wanted.class_at(path)
    if found is None:
        message = _message(f"{where}['{wanted.key}']", reason, list(options.values()))
        return error(wanted.wrong_class, message, wanted.class_hint(where, path))
    if isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        message = f"{where}['{wanted.key}']: {path!r} does not define {missing}."
        return error(wanted.wrong_class, message, f"Define {missing} in {found.__name__}.")
    known = accepted_options(found, wanted.takes_options)
    message = _message(f"{where}['OPTIONS']", reason, _confidential(options, known))
    if not issubclass(found, wanted.takes_options):
        fix = f"Correct {where}['OPTIONS'], the configuration of {found.__name__}."
        return error(wanted.wrong_options, message, fix)
    fixes = [fix_of_key(key, known) for key in options if key not in known]
    fix = "; ".join(fixes) or "correct the option named in the message"
    listed = ", ".join(sorted(map(repr, known)))
    hint = f"In {where}['OPTIONS'], {fix}. {found.__name__} accepts {listed}."
    return error(wanted.wrong_options, message, hint)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:  # a module without a spec, such as a stub of a test
        return True


def _confidential(options: Mapping[Any, Any], known: Collection[str]) -> list[Any]:
    """Return the values that no message may show: all but plain values of known options.

    A misspelt option, a URL, or a structure may hold a password under any name.
    """
    return [
        value
        for name, value in options.items()
        if name not in known or _HOLDS_MORE.search(name) or not _is_plain(value)
    ]


_HOLDS_MORE = re.compile(f"{SECRET_NAME.pattern} | url | servers?", re.IGNORECASE | re.VERBOSE)
_WORD = re.compile(r"[\w.{}-]{0,40}")


def _is_plain(value: object) -> bool:
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None
    return value is None or isinstance(value, int | float)


def _message(where: str, reason: Exception, confidential: Sequence[Any]) -> str:
    """Return the error's text, beginning with the setting, without the confidential values."""
    text = str(reason)
    if not isinstance(reason, BackendConfigurationError):
        text = f"{where}: {kind(reason)}: {text}"
    # Masking skips the setting's name, which an option's value may be part of.
    setting = where if text.startswith(where) else ""
    return (
        f"{setting}{without(text.removeprefix(setting), spellings(confidential))}".rstrip(".") + "."
    )


def accepted_options(found: type[Any], base: type[Any]) -> set[str]:
    """Return the arguments of the constructor and of the constructors that it passes more to."""
    accepted: set[str] = set()
    for each in found.__mro__:
        if "__init__" not in vars(each):
            continue
        parameters = signature(vars(each)["__init__"]).parameters.values()
        named = (Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
        accepted.update(item.name for item in parameters if item.kind in named)
        passes_on = any(item.kind == Parameter.VAR_KEYWORD for item in parameters)
        if each is base or not passes_on:
            break
    return accepted - {"self", "alias"}
