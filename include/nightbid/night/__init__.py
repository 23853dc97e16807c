"""What a night is, as data: stages, keys, manifests, records. Nothing here runs a stage."""
