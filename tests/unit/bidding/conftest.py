"""Fixtures that read iPinYou's logs of campaign 1458 where they are available."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

IPINYOU = Path(__file__).resolve().parents[4] / "shared" / "data" / "ipinyou_bidding"


def _part(name: str) -> pd.DataFrame:
    if not IPINYOU.is_dir():
        pytest.skip(f"{IPINYOU} is not here")
    return pd.read_csv(
        IPINYOU / f"1458.{name}.txt.gz",
        sep="\t",
        header=None,
        names=["click", "price", "pctr", "time"],
    )


@pytest.fixture(scope="session")
def train() -> pd.DataFrame:
    return _part("train")


@pytest.fixture(scope="session")
def test() -> pd.DataFrame:
    return _part("test")


@pytest.fixture(scope="session")
def pid_demo(train: pd.DataFrame) -> pd.DataFrame:
    return pd.read_csv(IPINYOU / "pid_demo.tsv", sep="\t")
