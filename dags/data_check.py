"""Folders of logs, looked at from the UI form."""

from nightbid_airflow.data_check import data_check_dag

dag = data_check_dag()
