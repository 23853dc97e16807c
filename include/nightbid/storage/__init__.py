"""Where everything lies: the workspace, on a local disk or in a bucket."""
