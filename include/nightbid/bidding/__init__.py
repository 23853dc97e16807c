"""Bids, auctions and money: the returns of a model's predictions on logs with market prices.

    ranking     order ads, price slots (GSP, VCG, first price)
    replay      bid against logged market prices: floors, budgets, pacing
    strategies  from a prediction to a bid, one file per method
    landscape   the distribution of market prices, censored or not
    policies    the value of a policy from logs of another one

Pure NumPy and Numba: no Airflow, no TensorFlow, no files.
"""
