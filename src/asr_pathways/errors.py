"""The one exception type that the command line turns into a single clear line."""

from __future__ import annotations


class PathwaysError(Exception):
    """Something the user can mend: bad input, a wrong option, a broken file.

    The message is one line that says what is wrong, where, and what to do about it. The command line prints
    it without a traceback and exits with status 1.
    """


class Interrupted(PathwaysError):
    """Someone asked for an end; what can go on later was saved."""
