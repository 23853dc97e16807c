"""Nightbid on Airflow: operators that run stages, sensors that watch costs, an embedded Airflow.

This package is a thin layer over the library ``nightbid``, which does not depend on Airflow.
"""
