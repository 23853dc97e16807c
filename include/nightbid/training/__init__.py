"""Fitting a model to featurized rows."""
