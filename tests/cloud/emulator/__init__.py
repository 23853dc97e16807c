"""Google Cloud services on loopback sockets, as far as the real clients need them."""
