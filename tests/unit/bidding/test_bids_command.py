"""`nightbid bids` as a process: its table, and one line per error."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from nightbid.cli.bids import app
from nightbid.errors import NightbidError
from preloaded import COMMANDS
from typer.testing import CliRunner


def bids(*arguments: str) -> subprocess.CompletedProcess[str]:
    return COMMANDS.run("bids", *arguments, env={"COLUMNS": "160", "PATH": ""})


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    rng = np.random.default_rng(4)
    for name in ("monday", "tuesday"):
        true = rng.beta(1, 20, 3000)
        frame = pd.DataFrame(
            {
                "click": (rng.random(3000) < true).astype(int),
                "price": np.round(rng.gamma(2, 0.8, 3000), 4),
                "pctr": true,
                "doubled": np.minimum(2 * true, 1),
                "true": true,
            }
        )
        frame.to_csv(folder / f"{name}.csv.gz", index=False)
    frame.assign(price=-1.0).to_csv(folder / "negative.csv", index=False)
    frame.assign(pctr=frame.pctr + 0.9).to_csv(folder / "above.csv", index=False)
    frame.head(0).to_csv(folder / "empty.csv", index=False)
    frame.assign(price=frame.price.where(frame.index != 7)).to_csv(folder / "gap.csv", index=False)
    frame.assign(price=frame.price * 1000).to_csv(folder / "micros.csv", index=False)
    frame.assign(bid=0.1, floor=0.2).to_csv(folder / "below.csv", index=False)
    frame.assign(bid=0.0, click=1).to_csv(folder / "unwon.csv", index=False)
    frame.assign(click=2).to_csv(folder / "clicks.csv", index=False)
    frame.assign(currency="USD").to_csv(folder / "dollars.csv", index=False)
    mixed = np.where(frame.index < 9, "EUR", "USD")
    frame.assign(currency=mixed).to_csv(folder / "mixed.csv", index=False)
    frame.assign(currency="EUR").to_csv(folder / "euros.csv", index=False)
    frame.assign(price="dear").to_csv(folder / "text.csv", index=False)
    return folder


def test_replay_prints_each_strategy(logs: Path) -> None:
    done = bids(
        "replay", str(logs / "tuesday.csv.gz"), "--train", str(logs / "monday.csv.gz"),
        "--value", "0.05", "--truth", "true", "--budget", "1",
        *[part for name in ("truthful", "linear", "ortb1", "pacing", "target", "constant")
          for part in ("--strategy", name)], "--cpc", "0.03",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "second price, bid > price, budget 1.00, 0.05 a click" in " ".join(done.stdout.split())
    for word in ("pacing", "expected surplus", "win rate", "3,000 auctions; 95% intervals"):
        assert word in done.stdout


def test_compare_shows_that_doubled_predictions_lose(logs: Path) -> None:
    done = bids(
        "compare", str(logs / "tuesday.csv.gz"), "--value", "0.05", "--truth", "true",
        "--pctr", "pctr", "--pctr", "doubled",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    line = next(text for text in done.stdout.splitlines() if "expected surplus less" in text)
    low = float(line.split("[")[1].split(",")[0])
    assert low > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("negative.csv",), "3,000 of 3,000 values of price are not finite and at least 0"),
        (("above.csv",), "values of pctr are not within 0..1"),
        (("empty.csv",), "there are no auctions"),
        (("text.csv",), "3,000 values of price are not numbers, the first 'dear'"),
        (("tuesday.csv.gz", "--budget", "0"), "the budget is 0"),
        (("tuesday.csv.gz", "--price", "cost"), "there is no column 'cost'"),
        (("tuesday.csv.gz", "--strategy", "linear"), "linear must be fitted"),
        (("tuesday.csv.gz", "--train", "monday.csv.gz", "--strategy", "rlb2"),
         "there is no strategy 'rlb2'"),
        (("tuesday.csv.gz", "--pricing", "third"), "pricing is 'third'"),
        (("nowhere.csv",), "no such file"),
        (("gap.csv",),
         "1 of 3,000 values of price are not finite and at least 0, the first in row 7"),
        (("micros.csv", "--train", "monday.csv.gz", "--strategy", "linear"),
         "on the days before → the unit or the currency of the prices changed"),
        (("below.csv", "--bid", "bid", "--floor", "floor"), "bid is below floor (3,000 rows)"),
        (("unwon.csv", "--bid", "bid"), "click is 1 but bid is below price (3,000 rows)"),
        (("mixed.csv", "--currency", "currency"),
         "9 of 3,000 rows are not in 'USD', the first in row 0: 'EUR'"),
        (("euros.csv", "--train", "dollars.csv", "--currency", "currency"),
         "3,000 of 3,000 rows are not in 'USD'"),
        (("clicks.csv",), "3,000 of 3,000 values of click are not within 0..1"),
    ],
)  # fmt: skip
def test_bad_logs_and_options_are_reported_in_one_line(
    logs: Path, arguments: tuple[str, ...], message: str
) -> None:
    files = [str(logs / name) if ".csv" in name else name for name in arguments]
    done = CliRunner().invoke(app, ["replay", *files, "--value", "0.05"])
    assert isinstance(done.exception, NightbidError)
    assert message in str(done.exception)
    assert "\n" not in str(done.exception)
    assert not done.stdout


def test_an_error_exits_3_with_one_line_on_stderr(logs: Path) -> None:
    done = bids("replay", str(logs / "negative.csv"), "--value", "0.05")
    assert done.returncode == 3
    assert len(done.stderr.strip().splitlines()) == 1
    assert not done.stdout
