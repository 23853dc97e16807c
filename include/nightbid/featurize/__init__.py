"""Featurization: converts sampled rows to model inputs, with Apache Beam on Arrow batches."""
