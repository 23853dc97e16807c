"""Reports: tables for the terminal, HTML for people."""
