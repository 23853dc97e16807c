"""`make audit` reports known vulnerabilities, and packages that it could not check."""

from __future__ import annotations

import datetime as dt
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TODAY = dt.date(2026, 3, 1)
VULN = {"id": "PYSEC-1", "aliases": ["CVE-9"], "fix_versions": ["2.0"]}
ANSWER = {"dependencies": [
    {"name": "good", "version": "1.0", "vulns": []},
    {"name": "bad", "version": "1.5", "vulns": [VULN]},
]}  # fmt: skip


@pytest.fixture(scope="module")
def audit():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))
        return importlib.import_module("audit")


def test_audit_fails_for_an_advisory_without_a_waiver_that_is_still_valid(audit) -> None:
    code, lines = audit.judge([ANSWER], [], TODAY)
    assert code == 1
    assert "bad 1.5: CVE-9 = PYSEC-1, fixed in 2.0" in lines
    text = '[[waiver]]\nid = "CVE-9"\nreason = "never called"\nuntil = 2026-03-31\n'
    code, lines = audit.judge([ANSWER], audit.waivers(text), TODAY)
    assert (code, lines) == (0, ["2 packages checked, 0 not in the database"])
    code, lines = audit.judge([ANSWER], audit.waivers(text), dt.date(2026, 4, 1))
    assert code == 1
    assert lines[0] == "waiver of CVE-9 ended on 2026-03-31: never called"


def test_audit_exits_3_when_no_package_could_be_checked(audit) -> None:
    skipped = {"dependencies": [{"name": "good", "skip_reason": "not found"}]}
    for answers in ([], [skipped]):
        code, lines = audit.judge(answers, [], TODAY)
        assert code == 3
        assert lines[-1].endswith("nothing was checked")


def test_a_waiver_needs_a_reason_and_an_end_date(audit) -> None:
    audit.waivers((ROOT / "audit.toml").read_text())
    with pytest.raises(ValueError, match="set id, reason and until"):
        audit.waivers('[[waiver]]\nid = "CVE-9"\nreason = ""\nuntil = 2026-03-31\n')


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_locked_package_has_a_hash(name: str) -> None:
    text = (ROOT / name).read_text().replace("\\\n", "")
    pins = re.findall(r"^[a-z0-9][^\n]*==[^\n]*$", text, re.MULTILINE)
    assert len(pins) > 50
    assert [pin for pin in pins if "--hash=sha256:" not in pin] == []
