"""Architectures, what they share, and models that were fitted."""
