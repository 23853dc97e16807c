"""Reports: tables for the terminal, and HTML pages."""
