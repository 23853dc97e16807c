"""Evaluation: mergeable metrics, intervals over users, the verdict."""
