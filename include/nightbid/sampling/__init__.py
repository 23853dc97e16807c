"""From raw daily logs to the labelled, weighted rows of a night."""
