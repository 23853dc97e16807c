"""Nightbid: nightly retraining of the models that rank ads and price bids.

The library is plain Python. It never imports Airflow: a stage runs the same from a test,
a shell and a DAG.
"""

__version__ = "0.1.0"
