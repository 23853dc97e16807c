"""Gates: each reads the manifests and profiles of earlier stages and passes, warns or stops."""
