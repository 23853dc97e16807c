"""Nightbid: nightly retraining of the models that rank ads and price bids.

The library is plain Python. It never imports Airflow: a stage runs the same from a test, a shell
and a DAG. For notebooks, `nightbid.Run` opens a run; see `nightbid.api`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nightbid.api import Run as Run

__all__ = ["Run", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the API at its first use, so that stages and DAG files do not pay for the import."""
    if name == "Run":
        from nightbid.api import Run

        return Run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
