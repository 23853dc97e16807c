"""Architectures fitted by LightGBM: one file each; TensorFlow is not needed."""
