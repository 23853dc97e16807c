"""One scoring DAG for every pipeline in `include/pipelines/`: promotions start it."""

from airflow.sdk import DAG  # noqa: F401 - Airflow reads only files that name it
from nightbid.config.settings import Settings
from nightbid_airflow.scoring import score_dags

globals().update(score_dags(Settings().pipelines))
