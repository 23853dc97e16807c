"""Sampling: raw daily logs to the labeled, weighted rows of a night."""
