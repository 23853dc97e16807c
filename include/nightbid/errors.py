"""The exceptions of Nightbid, as a tree. This module imports nothing.

::

    NightbidError                 every error that a user can act upon
    ├── ConfigError               a pipeline YAML, a setting or an argument is wrong
    ├── DataError                 the logs are not what the pipeline says they are
    │   ├── MissingDataError      a day, a file or a column is absent
    │   └── CorruptDataError      a file exists but cannot be read in its format
    ├── StageError                a stage could not finish
    ├── GateStopped               a gate judged its input unfit: the night ends here, by design
    ├── TrialPruned               a sweep pruned a poor trial: its training ends here, by design
    ├── PromotionRefused          paused, judged against another champion, or withdrawn
    ├── BudgetExceeded            a budget ran out and the work was canceled
    ├── ServiceError              a cloud service refused, or did not answer; asking again may help
    ├── PriceError                a price is missing or expired: a cost cannot be stated
    └── WorkspaceError            the workspace is unreachable, or is not what it should be
        ├── Refused               a bucket may not be read (`nightbid.storage.gcs_filesystem`)
        └── ConcurrentUpdateError another process updated the champion first

Each error has a one-line message: what is wrong (with the offending value), where, and what to do.
"""

from __future__ import annotations

EXIT_CODES = {
    2: "usage: wrong argument, setting or YAML",
    3: "data: missing or damaged logs or outputs",
    4: "a gate stopped the night, or the promotion was refused",
    5: "over budget, or a price is missing",
    6: "a stage failed, or `watch --once` has a new alert",
    7: "a service, the bucket or a database is unavailable",
}
"""Exit codes of the commands and what they mean; 0 is success, 1 any other failure."""


def printable(text: str) -> str:
    """Escape what is not valid Unicode, such as the bytes of a file name that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


class NightbidError(Exception):
    """Base of every error that a user can act upon.

    Args:
        what: What is wrong, with the offending value.
        where: File, key, day, column or stage in which it was found; empty: none.
        hint: What to do about it; empty: no hint.
    """

    exit_code = 1
    """Exit code of a command that ends with this error, see `EXIT_CODES`."""

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what = printable(what)
        self.where = printable(where)
        self.hint = printable(hint)
        line = f"{self.where}: {self.what}" if where else self.what
        super().__init__(f"{line} → {self.hint}" if hint else line)

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the three parts when pickled between processes (Beam workers, Airflow tasks)."""
        return (_rebuild, (type(self), self.what, self.where, self.hint))


def _rebuild(kind: type[NightbidError], what: str, where: str, hint: str) -> NightbidError:
    return kind(what, where=where, hint=hint)


class ConfigError(NightbidError):
    """A pipeline YAML, a setting or an argument is wrong."""

    exit_code = 2


class DataError(NightbidError):
    """The logs are not what the pipeline says they are."""

    exit_code = 3


class MissingDataError(DataError):
    """A day, a file or a column is absent."""


class CorruptDataError(DataError):
    """A file exists but cannot be read in its format."""


class StageError(NightbidError):
    """A stage could not finish."""

    exit_code = 6
    see_traceback = "see the traceback above; nothing was written, a rerun is safe"
    """Hint for an unexpected exception; the command line prints its traceback."""


class GateStopped(NightbidError):
    """A gate judged its input unfit: the night ends here, by design."""

    exit_code = 4


class TrialPruned(NightbidError):
    """Raised when a sweep prunes a trial."""


class BudgetExceeded(NightbidError):
    """A budget ran out and the work was canceled."""

    exit_code = 5


class ServiceError(NightbidError):
    """A cloud service refused, or did not answer; asking again may help."""

    exit_code = 7


class PriceError(NightbidError):
    """A price is missing or expired: a cost cannot be stated."""

    exit_code = 5


class WorkspaceError(NightbidError):
    """The workspace is unreachable, or is not what it should be."""

    exit_code = 7


class PromotionRefused(NightbidError):
    """Promotions are paused, the champion changed since the verdict, or a user withdrew it."""

    exit_code = 4


class ConcurrentUpdateError(WorkspaceError):
    """Raised when another process updated the champion first."""
