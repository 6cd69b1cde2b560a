"""The errors that normlab raises on purpose. Each is one line: what was wrong and what to do."""


def printable(text: str) -> str:
    """Text without the control characters and lone surrogates that foreign names may contain."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


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
