"""What a feature is worth: the loss without it, beside what computing it costs."""
