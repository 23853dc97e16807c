"""The catalog explains every check, and its commands are valid shell commands."""

from __future__ import annotations

import shlex

import pytest
from nightbid.config.gates import GATES, statistics_of
from nightbid.gates.catalog import checks_of, find_check, has_entry


@pytest.mark.parametrize("gate", GATES)
def test_every_check_has_meaning_causes_and_actions(gate):
    docs = checks_of(gate)
    assert [doc.statistic for doc in docs] == statistics_of(gate)
    for doc in docs:
        assert doc.meaning, doc.statistic
        assert doc.causes, doc.statistic
        assert doc.do, doc.statistic


def test_the_catalog_command_overrides_its_check():
    doc = find_check("raw", "psi:platform")
    assert doc is not None
    words = shlex.split(doc.command("ctr", "psi:platform", "2026-01-08"))
    assert words[:5] == ["nightbid", "gates", "override", "ctr", "raw/psi:platform"]
    assert "--until" in words
    assert find_check("raw", "nothing") is None
    assert has_entry("raw", "psi")
