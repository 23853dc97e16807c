"""The data model of a night: stages, keys, manifests, records. Nothing here runs a stage."""
