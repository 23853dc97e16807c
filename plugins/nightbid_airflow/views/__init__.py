"""Nightbid's pages in Airflow: the library's own, served behind Airflow's login. Read-only."""
