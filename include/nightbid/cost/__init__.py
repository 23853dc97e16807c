"""What runs cost: metering, prices, the ledger, budgets, and the answers drawn from them."""
