"""Verdicts, overrides and limits."""

from __future__ import annotations

import math
from datetime import date

import pytest
from nightbid.config.gate_limits import Limit
from nightbid.config.gates import Band, Gates, Override
from nightbid.gates.judge import judge
from nightbid.gates.measurements import Measurements
from nightbid.gates.propose import learn

NIGHT = date(2026, 1, 20)


def measurements(**values: float) -> Measurements:
    measured = Measurements()
    for name, value in values.items():
        measured.add(name, value, subject="price", part="2026-01-20", note="12 of 100 rows")
    return measured


@pytest.mark.parametrize(("value", "verdict"), [(0.0, "pass"), (0.02, "warn"), (0.12, "stop")])
def test_limits_decide_between_pass_warn_and_stop(value, verdict):
    assert judge("raw", measurements(null_excess=value), Gates(), NIGHT).verdict == verdict


def test_the_summary_names_check_value_limit_and_rows():
    summary = judge("raw", measurements(null_excess=0.12), Gates(), NIGHT).summary
    for part in ("null_excess:price", "0.12", "≤ 0.03", "2026-01-20", "12 of 100 rows"):
        assert part in summary


def test_a_nan_measurement_stops():
    assert judge("raw", measurements(psi=math.nan), Gates(), NIGHT).verdict == "stop"


def test_a_band_for_one_column_replaces_the_general_limit():
    bands = (Band(gate="raw", statistic="psi:price", stop=(None, 0.01)),)
    assert judge("raw", measurements(psi=0.05), Gates(bands=bands), NIGHT).verdict == "stop"
    assert judge("raw", measurements(psi=0.05), Gates(), NIGHT).verdict == "pass"


def test_a_band_for_several_columns_leaves_others_unchanged():
    bands = (Band(gate="raw", statistic="psi", columns=("price", "bid"), stop=(None, 0.01)),)
    assert judge("raw", measurements(psi=0.05), Gates(bands=bands), NIGHT).verdict == "stop"
    others = (Band(gate="raw", statistic="psi", columns=("bid",), stop=(None, 0.01)),)
    assert judge("raw", measurements(psi=0.05), Gates(bands=others), NIGHT).verdict == "pass"


@pytest.mark.parametrize(
    ("statistic", "columns", "message"),
    [
        ("null_exces:price", (), "no statistic 'null_exces'; did you mean 'null_excess'"),
        ("slice_positives", (), "the raw gate has no statistic 'slice_positives'"),
        ("psi:price", ("bid",), "already names a column"),
    ],
)
def test_a_band_for_an_unknown_statistic_is_rejected(statistic, columns, message):
    with pytest.raises(ValueError, match=message):
        Band(gate="raw", statistic=statistic, columns=columns, stop=(None, 1))


def test_an_override_applies_until_its_last_night():
    override = Override(
        gate="raw", check="psi:*", name="Ann", reason="new creatives launched", until=NIGHT
    )
    gates = Gates(overrides=(override,))
    held = judge("raw", measurements(psi=9.0), gates, NIGHT)
    assert held.verdict == "warn"
    assert "Ann" in held.summary
    assert judge("raw", measurements(psi=9.0), gates, date(2026, 1, 21)).verdict == "stop"


def test_learned_bands_are_never_wider_than_the_general_limit():
    general = Limit(warn=(0.8, 1.25), stop=(0.6, 1.6))
    band = learn("raw", "label_rate_vs_usual", [0.97, 1.02, 1.05], general, "")
    assert band is not None
    assert band.stop is not None
    assert band.stop[0] is not None
    assert band.stop[1] is not None
    assert 0.6 < band.stop[0] < 0.97
    assert 1.05 < band.stop[1] < 1.6
    assert learn("raw", "label_rate_vs_usual", [0.5, 2.5], general, "") is None


def test_every_stopping_check_is_listed_and_can_be_overridden():
    measured = Measurements()
    for column in ("price", "bid", "floor"):
        measured.add("psi", 9.0, subject=column, part="2026-01-20")
    stopped = judge("raw", measured, Gates(), NIGHT)
    named = [check.name for check in stopped.checks if check.verdict == "stop"]
    assert named == ["psi:price", "psi:bid", "psi:floor"]
    assert all(name in stopped.summary for name in named)
    overrides = tuple(
        Override(gate="raw", check=name, name="Ann", reason="new creatives launched", until=NIGHT)
        for name in named
    )
    assert judge("raw", measured, Gates(overrides=overrides), NIGHT).verdict == "warn"


def test_an_override_for_an_unknown_check_is_rejected():
    with pytest.raises(ValueError, match=r"no check 'psy:price'; did you mean 'psi'"):
        Override(gate="raw", check="psy:price", name="Ann", reason="new creatives", until=NIGHT)
