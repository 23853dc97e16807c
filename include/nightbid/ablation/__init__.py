"""Value of features: the loss without each one, and the cost of computing it."""
