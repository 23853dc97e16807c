"""Experiment tracking; its errors never fail a night."""
