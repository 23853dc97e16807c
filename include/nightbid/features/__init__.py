"""Features: one definition each for analysis, transformation, training and serving."""
