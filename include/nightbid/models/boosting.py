"""LightGBM, whose idle threads sleep.

By default they spin while they wait for each other. On a machine that does other things, that made
a training up to ten times slower; the trees are the same. The variable has an effect only before
the first import of LightGBM in a process, so import it from here.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import lightgbm

__all__ = ["lightgbm"]
