"""Nightbid's report pages in Airflow, served behind Airflow's login."""
