"""Nightbid on Airflow: operators that run stages, sensors that watch money, and an embedded night.

Everything here is a thin layer over the library ``nightbid``, which knows nothing of Airflow.
"""
