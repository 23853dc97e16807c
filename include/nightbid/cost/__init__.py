"""Costs of runs: metering, prices, the ledger, budgets and forecasts."""
