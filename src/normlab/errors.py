"""The errors that normlab raises on purpose. Each is one line: what was wrong and what to do."""

# Characters that are printed but not seen: fillers, and a joiner that joins nothing.
_INVISIBLE = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"


def printable(text: str) -> str:
    """Text with a visible mark for each character that foreign names may hide something with.

    These are control characters (a terminal obeys some), lone surrogates, characters without
    width, and spaces of other widths.
    """
    return "".join(
        c if c.isprintable() and c not in _INVISIBLE else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def one_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())


class NormlabError(Exception):
    """An error that the user can fix. The command line prints it on one line, no traceback."""

    exit_code = 1


class UsageError(NormlabError):
    """The request makes no sense: an unknown name, settings that exclude each other."""

    exit_code = 2


class DataError(NormlabError):
    """A data set is missing or malformed."""


class RunError(NormlabError):
    """A run's folder is missing, damaged, unfinished, or newer than this normlab."""


class DivergedError(NormlabError):
    """The loss was not finite. The last good checkpoint is kept."""


class InterruptedRunError(NormlabError):
    """Ctrl-C: the run was saved after its last step and can be resumed."""

    exit_code = 130
