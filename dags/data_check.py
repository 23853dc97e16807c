"""The DAG that checks folders of logs; the UI form starts it."""

from nightbid_airflow.data_check import data_check_dag

dag = data_check_dag()
