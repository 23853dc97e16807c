"""Evaluation: mergeable metrics, confidence intervals over users, and the verdict."""
