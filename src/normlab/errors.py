"""The errors that normlab raises on purpose: one line that says what was wrong and what to do."""


def printable(text: str) -> str:
    """Text without control characters or halves of surrogates, which somebody's names may have."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


class NormlabError(Exception):
    """Something the user can mend. The command line prints it as one line, without a traceback."""

    exit_code = 1


class UsageError(NormlabError):
    """What was asked for makes no sense: an unknown name, settings that exclude each other."""

    exit_code = 2


class DataError(NormlabError):
    """A data set is not where it was sought, or is not what it should be."""


class RunError(NormlabError):
    """A run's folder is missing, damaged, unfinished, or newer than this normlab."""


class DivergedError(NormlabError):
    """The loss was not finite; the last good checkpoint is kept."""


class InterruptedRunError(NormlabError):
    """Ctrl-C: the run was saved after its last step and can be resumed."""

    exit_code = 130
