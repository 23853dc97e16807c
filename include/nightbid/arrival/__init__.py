"""Arrival of a night's newest day of logs: waiting, deadlines, and late or corrected days."""
