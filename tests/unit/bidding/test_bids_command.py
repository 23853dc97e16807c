"""`nightbid bids` as a process: its table, and one line per error."""

from __future__ import annotations

import csv
import json
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
    frame.assign(price=frame.price * 1000, micros=frame.price * 1e6).to_csv(
        folder / "micros.csv", index=False
    )
    frame.assign(bid=0.1, floor=0.2).to_csv(folder / "below.csv", index=False)
    frame.assign(bid=0.0, click=1).to_csv(folder / "unwon.csv", index=False)
    frame.assign(click=2).to_csv(folder / "clicks.csv", index=False)
    frame.assign(currency="USD").to_csv(folder / "dollars.csv", index=False)
    mixed = np.where(frame.index < 9, "EUR", "USD")
    frame.assign(currency=mixed).to_csv(folder / "mixed.csv", index=False)
    frame.assign(currency="EUR").to_csv(folder / "euros.csv", index=False)
    frame.assign(price="dear").to_csv(folder / "text.csv", index=False)
    frame.to_csv(folder / "bare.csv", index=False, header=False)
    frame.assign(price=frame.price.astype(str) + ",5").to_csv(
        folder / "more.csv", index=False, quoting=csv.QUOTE_NONE, escapechar="\\"
    )
    text = (folder / "more.csv").read_text().replace("\\", "")
    (folder / "more.csv").write_text(text)
    frame.rename(columns={"doubled": "pctr"}).to_csv(folder / "twice.csv", index=False)
    frame.assign(click=0.5).to_csv(folder / "rates.csv", index=False)
    frame.assign(day=np.where(frame.index == 3, np.nan, 1)).to_csv(folder / "day.csv", index=False)
    return folder


def figures(*arguments: object) -> dict:
    done = CliRunner().invoke(app, [*map(str, arguments), "--value", "0.05", "--json"])
    assert done.exit_code == 0, done.exception
    return json.loads(done.output)


@pytest.mark.slow
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
        (("text.csv",), "3,000 values of price cannot be read as numbers, the first 'dear'"),
        (("tuesday.csv.gz", "--budget", "0"), "the budget is 0"),
        (("tuesday.csv.gz", "--price", "cost"), "there is no column 'cost'"),
        (("tuesday.csv.gz", "--strategy", "linear"), "linear must be fitted"),
        (("tuesday.csv.gz", "--train", "monday.csv.gz", "--strategy", "rlb2"),
         "there is no strategy 'rlb2'"),
        (("tuesday.csv.gz", "--pricing", "third"), "pricing is 'third'"),
        (("nowhere.csv",), "no such file"),
        (("gap.csv",),
         "1 of 3,000 values of price is not finite and at least 0, the first in row 7"),
        (("micros.csv", "--train", "monday.csv.gz", "--strategy", "linear"),
         "on the days before → the unit or the currency of the prices changed"),
        (("below.csv", "--bid", "bid", "--floor", "floor"), "bid is below floor (3,000 rows)"),
        (("unwon.csv", "--bid", "bid"), "click is 1 but bid is below price (3,000 rows)"),
        (("mixed.csv", "--currency", "currency"),
         "9 of 3,000 rows are not in 'USD', the first in row 0: 'EUR'"),
        (("euros.csv", "--train", "dollars.csv", "--currency", "currency"),
         "3,000 of 3,000 rows are not in 'USD'"),
        (("clicks.csv",), "values of click are neither 0 nor 1, the first in row 0: 2"),
        (("rates.csv",), "values of click are neither 0 nor 1, the first in row 0: 0.5"),
        (("day.csv", "--day", "day"), "no day in 1 of 3,000 rows, the first is row 3"),
        (("bare.csv", "--names", "click,price,pctr,doubled"),
         "--names has 4 names, but the first row has 5 values → name every column"),
        (("bare.csv", "--names", "click,price,pctr,doubled,true,user"), "--names has 6 names"),
        (("more.csv",), "the rows have more values than there are columns"),
        (("twice.csv",), "there are several columns 'pctr' → rename all but one"),
        (("tuesday.csv.gz", "--strategy", "truthfull"), "there is no strategy 'truthfull'"),
        (("tuesday.csv.gz", "--value", "nan"), "--value: the value of a click is nan"),
        (("tuesday.csv.gz", "--value", "-1"), "--value: the value of a click is -1"),
        (("tuesday.csv.gz", "--train", "monday.csv.gz", "--strategy", "pid", "--cpc", "-1"),
         "the target cost per click is -1 → set a target above 0"),
        (("tuesday.csv.gz", "--train", "monday.csv.gz", "--strategy", "target", "--roi", "0"),
         "the target ROI is 0 → set a target above 0"),
        (("micros.csv", "--train", "micros.csv", "--rounding", "down", "--strategy", "ortb1",
          "--per", "1e6", "--price", "micros"), "and ortb1 counts whole units of price"),
    ],
)  # fmt: skip
def test_bad_logs_and_options_are_reported_in_one_line(
    logs: Path, arguments: tuple[str, ...], message: str
) -> None:
    files = [str(logs / name) if ".csv" in name else name for name in arguments]
    done = CliRunner().invoke(app, ["replay", "--value", "0.05", *files])
    assert isinstance(done.exception, NightbidError)
    assert message in str(done.exception)
    assert "\n" not in str(done.exception)
    assert not done.stdout


@pytest.mark.parametrize("pricing", ["second", "first"])
def test_strategies_bear_prices_in_micros_and_one_odd_price(
    logs: Path, tmp_path: Path, pricing: str
) -> None:
    names = ["ortb1", "arbitrage", *(["shading"] if pricing == "first" else [])]
    chosen = [part for name in names for part in ("--strategy", name)]
    options = [*chosen, "--pricing", pricing, "--budget", 0.5, "--truth", "true"]
    earlier, later = logs / "monday.csv.gz", logs / "tuesday.csv.gz"
    plain = figures("replay", later, "--train", earlier, *options)["bidders"]
    for path in (earlier, later):
        frame = pd.read_csv(path)
        frame.assign(price=frame.price * 1e6).to_csv(tmp_path / path.name, index=False)
    scaled = figures(
        "replay", tmp_path / later.name, "--train", tmp_path / earlier.name, *options, "--per", 1e9
    )["bidders"]
    # A table of all prices up to this one would not fit in memory.
    frame = pd.read_csv(earlier)
    frame.loc[5, "price"] = 1e12
    frame.to_csv(tmp_path / "odd.csv", index=False)
    odd = figures("replay", later, "--train", tmp_path / "odd.csv", *options)["bidders"]
    for name in names:
        assert scaled[name]["impressions"] == pytest.approx(plain[name]["impressions"], rel=0.01)
        known = plain[name]["expected_surplus"]
        assert scaled[name]["expected_surplus"] == pytest.approx(known, rel=0.02)
        assert odd[name]["expected_surplus"] == pytest.approx(known, rel=0.1)


def test_columns_and_users_are_read_as_written(logs: Path, tmp_path: Path) -> None:
    plain = figures("replay", logs / "tuesday.csv.gz")
    head, *rows = pd.read_csv(logs / "tuesday.csv.gz").to_csv(index=False).splitlines()
    ended = tmp_path / "ended.csv"
    ended.write_text("\n".join([head, *(f"{row}," for row in rows)]))
    assert figures("replay", ended) == plain
    assert figures("replay", logs / "bare.csv", "--names", head) == plain
    users = ["7", "007", "x", "", "NA", ""] * 500
    (tmp_path / "users.csv").write_text(
        "\n".join([f"{head},user", *(f"{r},{u}" for r, u in zip(rows, users, strict=True))])
    )
    known = figures("replay", tmp_path / "users.csv", "--user", "user")
    # 7, 007 and x; each row without a user is a unit of its own.
    assert known["users"] == 3 + 1500


def test_an_error_exits_3_with_one_line_on_stderr(logs: Path) -> None:
    done = bids("replay", str(logs / "negative.csv"), "--value", "0.05")
    assert done.returncode == 3
    assert len(done.stderr.strip().splitlines()) == 1
    assert not done.stdout
