"""Bidding strategies: one file per method, with its paper and its formula.

Bids are per `Rules.per` impressions. Stateless strategies have `bids(pctr)`; those that react to
won auctions have `run(auctions, ...)`. Parameters are fitted on earlier days only: the `fit`
functions take the auctions to fit on.
"""

from nightbid.bidding.strategies.constant import Constant
from nightbid.bidding.strategies.linear import Linear
from nightbid.bidding.strategies.ortb import Arbitrage, Ortb1, Ortb2
from nightbid.bidding.strategies.pacing import DualPacing
from nightbid.bidding.strategies.pid import Pid
from nightbid.bidding.strategies.rlb import Rlb
from nightbid.bidding.strategies.shading import Shading
from nightbid.bidding.strategies.target import CostTarget
from nightbid.bidding.strategies.truthful import Truthful

__all__ = [
    "Arbitrage", "Constant", "CostTarget", "DualPacing", "Linear", "Ortb1", "Ortb2", "Pid",
    "Rlb", "Shading", "Truthful",
]  # fmt: skip
