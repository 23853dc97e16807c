"""Configuration: typed, validated on load."""
