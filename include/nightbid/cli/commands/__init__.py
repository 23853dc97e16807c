"""The commands of `nightbid`, a file for each panel of its help."""
