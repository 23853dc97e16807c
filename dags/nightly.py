"""One nightly DAG for every pipeline in `include/pipelines/`: add a YAML, get a DAG."""

from nightbid.config.load import find_pipeline, pipeline_names
from nightbid.config.settings import Settings
from nightbid.errors import ConfigError
from nightbid_airflow.night import BrokenPipelines, nightly_dag

folder = Settings().pipelines
faults = []
for name in pipeline_names(folder):
    try:
        dag = nightly_dag(find_pipeline(name, folder))
    except ConfigError as fault:
        faults.append(fault)
    else:
        globals()[dag.dag_id] = dag
if faults:
    broken_pipelines = BrokenPipelines(faults)
