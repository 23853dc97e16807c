"""Airflow without an installation: SQLite, local executor, everything below one folder.

`python -m nightbid_airflow.embedded run` runs nights and ends; `… ui` stays up. One process, the
supervisor, imports Airflow once, forks its components and ends them all when its starter is
gone, however it went.
"""
