"""Architectures that combine others: one file each, named after the architecture."""
