"""Health checks: `python3 healthy.py URL` is 200, or `… URL COMPONENT` has reported lately."""

import json
import sys
import urllib.request

with urllib.request.urlopen(sys.argv[1], timeout=10) as answer:  # noqa: S310 - our own services
    if len(sys.argv) > 2:
        state = (json.load(answer).get(sys.argv[2]) or {}).get("status")
        sys.exit(state != "healthy")
