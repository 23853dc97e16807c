"""The bundle for serving: features, model and exported graph; also its load test."""
