"""Foreign text in messages: control characters are escaped, and the secrets of URLs are hidden."""

from __future__ import annotations

import re
import traceback
import unicodedata
from bisect import insort
from collections.abc import Iterable
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, unquote

# Replaces a secret.
HIDDEN = "***"
# Up to the last @ before the path. In every URL of a chain (zip://x::https://user:password@host/y).
# Path("https://…") has one slash less.
# A password as it should not be written, with / or ?, ends at the last @, unless the : is that of a port or of a chain.
_USER_OF = r"(?:(?<=://)|(?<=\w\w:/))(?:[^{not_in}/?#]*@|[^{not_in}/?#@:]*:(?!:|\d*(?:[/?#\s]|$))[^{not_in}]*@)"
_USER = re.compile(_USER_OF.format(not_in=r"\s'\"<>"))
_USER_OF_ONE = re.compile(_USER_OF.format(not_in=r"\n"))
# After an http URL every query may be a signature; elsewhere a ? may be a wildcard, and only name=value is a query.
_QUERY = re.compile(r"(https?://?[^\s'\"<>?#]*[?#]|://[^\s'\"<>?#]*[?#](?=[^\s'\"<>]*=))([^\s'\"<>]+)")
_CLOSING = ":;,.)]}"
# Format characters that turn the direction of what follows, or that a reader cannot see; joiners are part of emoji and words.
_SPOOFING = {0x200B, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2060, 0x2070), 0x061C, 0xFEFF}
# Shorter values may be words of a message.
_LEAST_SECRET = 6
_MOST_SECRETS = 10_000
# Characters of a value that a message shows.
_SHOWN = 100
# Secrets of the URLs that were opened, also as libraries quote them: without the URL, decoded. The longest first.
_secrets: list[str] = []


@lru_cache(maxsize=4096)
def note_secrets(url: str) -> None:
    """Remember the user, the password and the query of this URL, so that `redacted` hides them in every text."""
    found: list[str] = []
    for part in filter(None, map(_USER_OF_ONE.search, url.split("::"))):
        user = part[0][:-1]
        found += [user, user.partition(":")[2] or user]
    head, _, query = url.partition("?")
    if head.startswith(("http://", "https://")) or "=" in query:
        found += [query, *(value for _, value in parse_qsl(query))]
    for secret in found:
        for spelling in (secret, unquote(secret)):
            if len(spelling) >= _LEAST_SECRET and len(_secrets) < _MOST_SECRETS and spelling not in _secrets:
                insort(_secrets, spelling, key=lambda secret: -len(secret))


def redacted(text: str) -> str:
    """The text without the users, passwords and queries of the URLs in it."""
    for secret in _secrets:
        text = text.replace(secret, HIDDEN)
    if ":/" not in text:
        return text
    return _QUERY.sub(_without_query, _USER.sub(f"{HIDDEN}@", text))


def _without_query(match: re.Match[str]) -> str:
    query = match[2]
    kept = query.rstrip(_CLOSING)
    return match[1] + HIDDEN + query[len(kept) :]


def printable(text: str, keep: str = "") -> str:
    """The text with control characters, line breaks and marks of text direction escaped (\\x1b), except those in `keep`.

    Bytes of file names that are not UTF-8 become \\xff.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or not _is_control(c) else _escaped(c) for c in text)


def shown(text: object, keep: str = "") -> str:
    """Foreign text (a name, a path, the message of a library) as messages and pages show it."""
    return printable(redacted(str(text)), keep)


def shown_values(value: object) -> Any:
    """A value for JSON without the secrets of URLs. json.dumps escapes control characters."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {shown_values(key): shown_values(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown_values(one) for one in value]
    return value


def shown_traceback(error: BaseException) -> str:
    """Python's traceback of an error and its causes."""
    return shown("".join(traceback.format_exception(error)), keep="\n")


def without_secrets(error: BaseException) -> BaseException | None:
    """The error, for `raise ... from`; None if its traceback would quote a secret of a URL."""
    text = "".join(traceback.format_exception(error))
    return error if redacted(text) == text else None


def _is_control(c: str) -> bool:
    return unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or ord(c) in _SPOOFING


def _escaped(c: str) -> str:
    code = ord(c)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8 (os.fsdecode)
        return f"\\x{code - 0xDC00:02x}"
    named = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(c)
    return named or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def one_line(error: BaseException) -> str:
    """The message of an exception, on one line of bounded length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def shortened(text: str) -> str:
    """Text for messages, of bounded length."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def brief(value: object) -> str:
    """A value for messages, of bounded length."""
    try:
        return shortened(repr(value))
    except ValueError:  # Python formats no number of more than 4,300 digits
        return "a number of too many digits"


def described(x: object) -> str:
    """The type of x with its article: "a Series", "an Index", "an ndarray", "a uint8"; "None" for None."""
    if x is None:
        return "None"
    name = type(x).__name__
    return f"{'an' if re.match('(?!u(int|ni))[aeiou]|nd', name, re.IGNORECASE) else 'a'} {name}"


def is_utf8(text: str) -> bool:
    """Whether it can be encoded: lone surrogates, which os.fsdecode makes of bytes that are not UTF-8, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def meant(given: str, names: Iterable[str], then: str = "", least: float = 0.6) -> str:
    """For a message about an unknown name: ", did you mean 'x'?", or "" if no name is similar; and then what can be chosen.

    The initials of a name count as similar: lr for learning_rate. least: from which similarity on, 0 to 1 for equal names.

    Examples
    --------
    >>> meant("txet", ["text", "image"], "the roles are text, image")
    ", did you mean 'text'? The roles are text, image"
    >>> meant("audio", ["text", "image"], "the roles are text, image")
    '; the roles are text, image'
    """
    import difflib

    known = [name for name in names if isinstance(name, str)]
    near = [name for name in known if "_" in name and given == "".join(word[:1] for word in name.split("_"))]
    near = near or difflib.get_close_matches(given, known, 1, least)
    if not near:
        return then and f"; {then}"
    return f", did you mean {near[0]!r}?{then and f' {then[0].upper()}{then[1:]}'}"
