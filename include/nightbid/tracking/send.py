"""`python -m nightbid.tracking.send ROOT`: log the queue in a separate process.

The address of the store is read from standard input.
"""

from __future__ import annotations

import sys

from nightbid.storage.workspace import Workspace
from nightbid.tracking.log import replay


def main(root: str, uri: str) -> int:
    """Log every queued run; return 1 and write one line to stderr if the store fails."""
    try:
        replay(Workspace(root), uri)
    except Exception as error:
        line = " ".join(str(error).split())
        sys.stderr.write(f"{type(error).__name__}: {line}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.stdin.read()))
