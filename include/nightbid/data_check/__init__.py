"""Inspects a folder of logs: reports its content and drafts a pipeline YAML that reads it."""
