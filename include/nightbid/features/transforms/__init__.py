"""Transforms of the YAML, one class each: learning, computing, serving and documentation.

To add one, add its settings to `nightbid.config.features` and a file here.
"""
