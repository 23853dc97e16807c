"""`python -m nightbid.tracking.send ROOT URI`: log what waits, in a process of its own."""

from __future__ import annotations

import sys

from nightbid.storage.workspace import Workspace
from nightbid.tracking.log import replay


def main(root: str, uri: str) -> int:
    """Log every waiting run; 1 and one line on stderr if the store would not."""
    try:
        replay(Workspace(root), uri)
    except Exception as error:
        line = " ".join(str(error).split())
        sys.stderr.write(f"{type(error).__name__}: {line}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
