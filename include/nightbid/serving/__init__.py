"""The bundle that serves: features, model and their exported graph, and its load test."""
