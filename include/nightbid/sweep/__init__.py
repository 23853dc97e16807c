"""Sweeps: many trainings on the same features, proposed by Optuna; ranked and resumable."""
