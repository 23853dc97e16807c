"""Alerts to users: what happened to a night, which champion serves, and where to look."""
