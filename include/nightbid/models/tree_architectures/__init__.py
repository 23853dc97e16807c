"""Architectures that LightGBM fits: one file each, no TensorFlow needed."""
