"""Tests of reports. As a package, they end their shared browser with the last of them."""
