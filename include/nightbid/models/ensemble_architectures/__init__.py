"""Architectures that combine others: one file each."""
