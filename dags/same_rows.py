"""The DAG that scores an older model on a newer night's rows; the comparison page triggers it."""

from nightbid.config.load import pipeline_names
from nightbid.config.settings import Settings
from nightbid_airflow.rescore import rescore_dag

names = pipeline_names(Settings().pipelines)
if names:
    dag = rescore_dag(names)
