"""Emulators of the Google Cloud services that the real clients call, on loopback sockets."""
