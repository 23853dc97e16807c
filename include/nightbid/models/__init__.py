"""Architectures, the code they share, and fitted models."""
