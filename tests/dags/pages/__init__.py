"""Tests that share one API server, which fixtures of the package stop."""
