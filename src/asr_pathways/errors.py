"""The one exception type that the command line turns into a single clear line."""

from __future__ import annotations

import re

_BREAK = re.compile(r"\s*[\n\r\v\f\x85\u2028\u2029]\s*")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def one_line(text: str) -> str:
    """The text in one line: breaks become spaces, other control characters escapes."""
    return visible(_BREAK.sub(" ", text.strip()))


def reason_of(error: BaseException) -> str:
    """What an error of a library says, in one line; the name of its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def visible(text: str) -> str:
    """The text with escapes for control characters, which terminals obey, but for line feeds."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class PathwaysError(Exception):
    """Something the user can mend: bad input, a wrong option, a broken file.

    The message says what is wrong, where, and what to do about it; it is made one line, whatever names of files or
    words of libraries are in it. The command line prints it without a traceback and exits with status 1.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


class Interrupted(PathwaysError):
    """Someone asked for an end; what can go on later was saved."""
