"""`python -m nightbid`: the same as the command `nightbid`."""

from nightbid.cli.app import main

main()
