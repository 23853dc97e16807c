"""Networks fitted by TensorFlow: one file per architecture, named after it."""
