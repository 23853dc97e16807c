"""The transforms of the YAML, a class each: what it learns, computes, serves and says of itself.

To add one is to add its settings to `nightbid.config.features`, and a file here.
"""
