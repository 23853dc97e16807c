"""Airflow without an installation: SQLite, local executor, all files in one folder.

`python -m nightbid_airflow.embedded run` runs nights and exits; `… ui` keeps running. One process,
the supervisor, imports Airflow once, forks its components and terminates them when the process that
started it has exited for any reason.
"""
