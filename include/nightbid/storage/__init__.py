"""Storage: the workspace, on a local disk or in a bucket."""
