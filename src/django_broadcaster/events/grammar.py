"""URIs (RFC 3986) and media types (RFC 2046) as patterns, in linear time for hostile input."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv6Address


def _checker(pattern: str) -> Callable[[str], bool]:
    """Return a test for `pattern`; a group in it must be an IPv6 address.

    The results for short strings are cached: an application uses few of them. Long strings from a
    peer must not fill the memory.
    """
    compiled = re.compile(pattern)

    def check(value: str) -> bool:
        match = compiled.fullmatch(value)
        return match is not None and all(map(_is_ipv6, filter(None, match.groups())))

    remembered = lru_cache(maxsize=1024)(check)
    return lambda value: remembered(value) if len(value) <= 255 else check(value)


def _is_ipv6(address: str) -> bool:
    try:
        return bool(IPv6Address(address))
    except ValueError:
        return False


# RFC 3986 appendix A. Possessive quantifiers keep hostile input from backtracking.
_ESCAPED = "%[0-9A-Fa-f]{2}"
_PLAIN = r"A-Za-z0-9._~!$&'()*+,;=\-"
_CHAR = rf"(?:[{_PLAIN}:@]|{_ESCAPED})"
_PATH = rf"(?:/{_CHAR}*+)*+"
_IP_LITERAL = rf"\[(?:([0-9A-Fa-f:.]+)|[Vv][0-9A-Fa-f]+\.[{_PLAIN}:]+)\]"
_HOST = rf"(?:{_IP_LITERAL}|(?:[{_PLAIN}]|{_ESCAPED})*+)"
_FROM_ROOT = (
    rf"//(?:(?:[{_PLAIN}:]|{_ESCAPED})*+@)?{_HOST}(?::[0-9]*)?{_PATH}|/(?:{_CHAR}++{_PATH})?"
)
_TAIL = rf"(?:\?(?:{_CHAR}|[/?])*+)?(?:\#(?:{_CHAR}|[/?])*+)?"
_URI = rf"[A-Za-z][A-Za-z0-9+.\-]*:(?:{_FROM_ROOT}|{_CHAR}++{_PATH}|){_TAIL}"
_RELATIVE = rf"(?:{_FROM_ROOT}|(?:[{_PLAIN}@]|{_ESCAPED})++{_PATH}|){_TAIL}"
_WORD = r"[!#$%&'*+.0-9A-Z^_`a-z{|}~-]++"  # RFC 2045 section 5.1
_QUOTED = r'"(?:[ !#-\[\]-~]|\\[ -~])*+"'

is_uri = _checker(_URI)
is_uri_reference = _checker(f"{_URI}|{_RELATIVE}")
is_media_type = _checker(rf"{_WORD}/{_WORD}(?: *; *{_WORD}=(?:{_WORD}|{_QUOTED}))*+")
_CHARSET = re.compile(r"(?i); *charset=(?:\"([^\"]*)\"|([^; ]+))")
_TEXT_TYPE = re.compile(r"(?i)text/|application/(?:[^/;]*\+)?xml *(?:;|$)")
is_json_type = _checker(r"(?i:[^/;]+/(?:[^/;]*\+)?json *(?:;.*)?)")  # of what is a media type


def charset_of(content_type: str) -> str | None:
    """Return the charset of a media type whose data is text, or None if the data is bytes."""
    charset = _CHARSET.search(content_type)
    if charset:
        return charset[1] or charset[2]
    return "utf-8" if _TEXT_TYPE.match(content_type) else None
