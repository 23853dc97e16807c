"""The scorer serves the champion over HTTP: JSON rows in, calibrated probabilities out."""
