"""One scoring DAG for every pipeline in `include/pipelines/`: a promotion triggers it."""

from airflow.sdk import DAG  # noqa: F401 - Airflow parses only files that mention it
from nightbid.config.settings import Settings
from nightbid_airflow.scoring import score_dags

globals().update(score_dags(Settings().pipelines))
