"""A first look at a folder of logs: what is in it, and a pipeline YAML that could read it."""
