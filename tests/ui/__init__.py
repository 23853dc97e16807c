"""Tests in a browser, which share an Airflow: pytest ends the fixtures of a package with it."""
