"""The DAGs that rehearse upgrades: from the UI form, and weekly with the newest versions."""

from nightbid.config.load import pipeline_names
from nightbid.config.settings import Settings
from nightbid_airflow.rehearse import proposal_dag, rehearsal_dag

names = pipeline_names(Settings().pipelines)
if names:
    dag = rehearsal_dag(names)
    weekly = proposal_dag(names)
