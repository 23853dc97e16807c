"""Networks that TensorFlow fits: one file per architecture; its name is the file's name."""
