"""Tests of the DAGs of upgrade rehearsals."""

from __future__ import annotations

from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import ParamValidationError

DAGS = Path(__file__).resolve().parents[2] / "dags"


def the_dag():
    bag = DagBag(str(DAGS), bundle_path=DAGS, bundle_name="dags-folder")
    assert not bag.import_errors
    return bag.dags["upgrade_rehearsal"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("pipeline", "nope"), ("upgrade", ["numpy>=2"]), ("seeds", 1), ("margin", 0)],
)
def test_rehearsal_form_rejects_invalid_values(pipelines, field, value) -> None:
    pipelines()
    params = the_dag().params
    with pytest.raises(ParamValidationError):
        params[field] = value
