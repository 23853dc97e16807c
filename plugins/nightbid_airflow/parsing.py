"""Which DAGs a parse of a DAG file needs."""

from __future__ import annotations

from airflow.sdk import get_parsing_context


def is_needed(dag_id: str) -> bool:
    """Return whether the parse in progress needs a DAG.

    Each task parses the DAG file again in its own process, and needs only the DAG that it belongs
    to. The DAG processor needs all of them.
    """
    return get_parsing_context().dag_id in (None, dag_id)
