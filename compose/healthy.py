"""Health checks: `python3 healthy.py URL` answers 200, or `… URL COMPONENT` is healthy.

For `tcp://HOST:PORT` (gRPC), an open port is enough.
"""

import json
import socket
import sys
import urllib.request
from urllib.parse import urlsplit

try:
    if sys.argv[1].startswith("tcp://"):
        place = urlsplit(sys.argv[1])
        socket.create_connection((place.hostname, place.port), timeout=10).close()
        sys.exit()
    with urllib.request.urlopen(sys.argv[1], timeout=10) as answer:  # noqa: S310 - our services
        if len(sys.argv) > 2:
            state = (json.load(answer).get(sys.argv[2]) or {}).get("status")
            if state != "healthy":
                sys.exit(f"{sys.argv[2]} is {state}")
except OSError as error:
    sys.exit(f"{sys.argv[1]}: {error}")
