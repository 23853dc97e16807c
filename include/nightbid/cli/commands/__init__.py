"""The commands of `nightbid`: one module per panel of its help."""
