"""Experiment tracking that never fails a night."""
