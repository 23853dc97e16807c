"""Features: one definition of each, for analysis, transformation, training and serving."""
