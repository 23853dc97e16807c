"""The sweep DAG: trains variants of a pipeline's model from the UI form, shown trial by trial."""

from nightbid.config.load import pipeline_names
from nightbid.config.settings import Settings
from nightbid_airflow.sweep import sweep_dag

names = pipeline_names(Settings().pipelines)
if names:
    dag = sweep_dag(names)
