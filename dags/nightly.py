"""One nightly DAG for every pipeline in `include/pipelines/`: a new YAML adds a DAG."""

from airflow.sdk import DAG  # noqa: F401 - Airflow parses only files that mention it
from nightbid.config.settings import Settings
from nightbid_airflow.night import pipeline_dags

globals().update(pipeline_dags(Settings().pipelines))
