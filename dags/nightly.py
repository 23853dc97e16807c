"""One nightly DAG for every pipeline in `include/pipelines/`: add a YAML, get a DAG."""

from airflow.sdk import DAG  # noqa: F401 - Airflow reads only files that name it
from nightbid.config.settings import Settings
from nightbid_airflow.night import pipeline_dags

globals().update(pipeline_dags(Settings().pipelines))
