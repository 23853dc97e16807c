"""Sources of logs: each yields Arrow record batches, day by day, in bounded memory."""
