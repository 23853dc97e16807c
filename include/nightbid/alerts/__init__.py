"""Messages to people: what happened to a night, what serves meanwhile, where to look."""
