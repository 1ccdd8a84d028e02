"""Commands as they are sent: https://redis.io/docs/latest/develop/reference/protocol-spec/."""

from __future__ import annotations


def packed(*words: str | bytes | int) -> bytes:
    """Return a command as it is sent."""
    raw = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n%b" % (len(raw), b"".join(b"$%d\r\n%b\r\n" % (len(each), each) for each in raw))
