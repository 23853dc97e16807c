"""The scorer: the champion behind an HTTP address, JSON rows in, calibrated probabilities out."""
