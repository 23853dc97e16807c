"""Rows without a user are kept: each is a user of its own, whatever stands in the user column."""

from __future__ import annotations

import datetime as dt
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nightbid.anonymous import are_anonymous
from nightbid.errors import CorruptDataError
from nightbid.evaluation.bootstrap import Resampling, bounds, replicate
from nightbid.gates.day_profiles import DayProfile, DayProfiles
from nightbid.gates.judge import judge
from nightbid.gates.raw import measure_days
from nightbid.profile import Profile
from nightbid.sampling.rows import parse
from nightbid.sampling.stage import run
from nightbid.schema import KEY, USER, split_files
from pyarrow import csv, parquet
from tasks import task_of

from .small_logs import logs, parsed, spec_of

NIGHT = dt.date(2026, 1, 4)
ZEROS = "00000000-0000-0000-0000-000000000000"
ROWS, ABSENT = 60, 18


def write(folder, kind: str, user: str | None, tenths: int, rows: int, newest: str) -> None:
    """Write four days; so many tenths of the rows have this user, and on the newest day another."""
    for back in range(4):
        day = NIGHT - dt.timedelta(days=back)
        users = [user if at % 10 < tenths else f"u{at % 7}" for at in range(rows)]
        if newest and not back:
            users = [newest if at % 10 > 6 else name for at, name in enumerate(users)]
        times = [f"{day}T{at % 24:02}:00:00Z" for at in range(rows)]
        keys = [f"{day}/{at}" for at in range(rows)]
        table = logs(rows, impression_id=keys, user_id=pa.array(users, pa.string()), time=times)
        (folder / f"dt={day}").mkdir(parents=True)
        path = folder / f"dt={day}" / f"part.{kind}"
        if kind == "parquet":
            parquet.write_table(table, path)
        elif kind == "csv":
            csv.write_csv(table, path)
        else:
            lines = [
                json.dumps({name: value for name, value in row.items() if value is not None})
                for row in table.to_pylist()
            ]
            path.write_text("\n".join([*lines, ""]))


@pytest.fixture
def sample(tmp_path):
    """Sample a night of such logs; return the outcome and the folder."""

    def start(kind: str, user: str | None, tenths: int = 3, rows: int = ROWS, newest: str = ""):
        write(tmp_path / "logs", kind, user, tenths, rows, newest)
        source = {"kind": kind, "folder": str(tmp_path / "logs")}
        spec = spec_of(source=source, columns={"anonymous": ["-"]})
        output = tmp_path / "out"
        output.mkdir()
        task = task_of(
            spec, NIGHT, output, workspace=tmp_path / "workspace", cache=tmp_path / "cache"
        )
        return run(task), output

    return start


@pytest.mark.parametrize(
    ("kind", "user"),
    [("parquet", None), ("parquet", ""), ("parquet", ZEROS), ("csv", None), ("csv", ZEROS),
     ("csv", "-"), ("jsonl", None), ("jsonl", ""), ("jsonl", "-")],
)  # fmt: skip
def test_rows_without_a_user_are_kept_counted_and_profiled(sample, kind, user):
    outcome, output = sample(kind, user)
    assert (outcome.rows.written, outcome.rows.quarantined) == (4 * ROWS, 0)
    assert outcome.summary.endswith("240 kept, 30.0% without user_id")
    assert outcome.metrics["days"][str(NIGHT)]["anonymous"] == ABSENT
    (path,) = split_files(output, "evaluate")
    rows = parquet.read_table(path, partitioning=None)
    assert len(rows[USER].unique()) == 7 + ABSENT
    assert are_anonymous(np.asarray(rows[KEY]), np.asarray(rows[USER])).sum() == ABSENT
    # The rows hold what was logged; the profile, which the gate judges, says how many have no user.
    assert set(rows["user_id"].to_pylist()[:3]) <= {user, None if kind == "csv" else user}
    profile = Profile.load(output / "profile" / f"dt={NIGHT}.json").columns["user_id"]
    assert (profile.nulls, profile.blank, profile.distinct) == (ABSENT, 0, 7)


@pytest.mark.parametrize(
    ("newest", "check"),
    [("", None), ("-", "null_excess:user_id"), ("unlisted", "concentration:user_id")],
)
def test_a_jump_of_the_rows_without_a_user_stops_the_raw_gate(sample, newest, check):
    """The newest day has 30% more of them, by a text that means no user or by a new one."""
    _, output = sample("parquet", None, rows=600, newest=newest)
    days = [NIGHT - dt.timedelta(days=back) for back in range(3, -1, -1)]
    profiles = [
        DayProfile(day, Profile.load(output / "profile" / f"dt={day}.json"), {}) for day in days
    ]
    spec = spec_of(columns={"anonymous": ["-"]})
    checks = judge(
        "raw", measure_days(DayProfiles(profiles, [], days), spec), spec.gates, NIGHT
    ).checks
    stopped = {each.name for each in checks if each.verdict == "stop"}
    assert check in stopped if check else not any("user_id" in name for name in stopped)


def test_logs_without_any_user_are_refused_in_one_line(sample):
    with pytest.raises(CorruptDataError, match=r"user user_id: none of 240 rows has a user"):
        sample("csv", "-", tenths=10)


@pytest.mark.parametrize(
    "users",
    [pa.array([0, 5, None, -1, 0, 7]), pa.array([0.0, 5.0, np.nan, -1.0, None, 7.0]),
     pa.array(["0", "5", None, "-1", "", "7"]), pa.array([b"0", b"5", None, b"-1", b"", b"7"]),
     pa.array([0, 5, None, 255, 0, 7], pa.uint8()),
     pa.array(["0", "5", None, "-1", "0", "7"]).dictionary_encode()],
)  # fmt: skip
def test_texts_that_mean_no_user_are_found_in_columns_of_every_type(users):
    block = parsed(logs(user_id=users), columns={"anonymous": ["0", "-1", "255", "unlike 7"]})
    absent = are_anonymous(np.asarray(block.good[KEY]), np.asarray(block.good[USER]))
    assert absent.tolist() == [True, False, True, True, True, False]


@given(name=st.text(min_size=1, max_size=8).filter(lambda text: not text.startswith("u")))
@settings(max_examples=25)
def test_intervals_do_not_depend_on_how_the_logs_spell_no_user(name):
    draw = np.random.default_rng(1)
    absent, scores = draw.random(80) < 0.5, draw.random(80)
    spellings = []
    for spelled, anonymous in ((None, []), (name, [name])):
        users = [spelled if is_absent else f"u{at % 9}" for at, is_absent in enumerate(absent)]
        table = logs(80, user_id=pa.array(users, pa.string()))
        labels = np.random.default_rng(2).integers(0, 2, 80).astype(float)
        rows = parse(table, spec_of(columns={"anonymous": anonymous}), {}, "logs of today").good
        resampling = Resampling.of(np.asarray(rows[USER]), 20, seed=3)
        drawn = replicate(resampling, labels, np.ones(80), np.asarray(rows[USER]), {"m": scores})
        spellings.append((len(resampling.users), bounds(drawn["m"].auc)))
    assert spellings[0] == spellings[1]
    assert spellings[0][0] == 9 + absent.sum()
