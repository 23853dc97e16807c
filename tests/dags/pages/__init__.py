"""Tests that share one API server: fixtures of the package end it."""
