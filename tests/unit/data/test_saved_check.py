"""A saved data check stores nothing that identifies a person."""

from __future__ import annotations

import html
import json
import re
from datetime import date, timedelta
from pathlib import Path
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.data_check.check import check_folder
from nightbid.data_check.saved import save_check, saved_checks
from nightbid.report.data_check_page import data_check_page
from nightbid.report.links import Links
from nightbid.storage.workspace import Workspace

ROWS = 400
PEOPLE = 40


def write_logs(folder: Path, columns: dict[str, object]) -> None:
    """Write three days whose column names say nothing."""
    at = np.arange(ROWS)
    for back in range(3):
        day = date(2026, 1, 5) + timedelta(days=back)
        times = np.datetime64(day, "us") + at * 10**8
        place = folder / f"dt={day}"
        place.mkdir(parents=True)
        always = {"c0": pa.array([f"{day}/{row}" for row in at]), "c1": pa.array(times),
                  "c2": pa.array((at % 10 == 0).astype(int))}  # fmt: skip
        pq.write_table(pa.table({**always, **columns}), place / "a.parquet")


@pytest.fixture
def stored_check(tmp_path: Path):
    """Check logs with these columns, and return everything that is stored and shown."""

    def look(columns: dict[str, object]) -> tuple[str, dict[str, list[str] | None]]:
        write_logs(tmp_path / "logs", columns)
        workspace = Workspace(str(tmp_path / "workspace"))
        report = check_folder(str(tmp_path / "logs"), tmp_path / "cache")
        save_check(workspace, "one", str(tmp_path / "logs"), report, "ann")
        (check,) = saved_checks(workspace)
        stored = "".join(path.read_text() for path in (tmp_path / "workspace").rglob("*.json"))
        page = data_check_page(check, Links(), [])
        return stored + page, {
            column["name"]: column["examples"] for column in check.report["columns"]
        }

    return look


def of_people(spell, people: int = PEOPLE) -> list:
    return [spell(row % people) for row in range(ROWS)]


IDENTIFYING = {
    "numbered": of_people(lambda n: f"person-{n}"),
    "few_numbered": of_people(lambda n: f"person-{n}", people=5),
    "words": of_people(lambda n: f"Ann {chr(65 + n % 26)}{chr(97 + n // 26)}son"),
    "numbers": of_people(lambda n: 4711 + n),
    "few_large_numbers": of_people(lambda n: 915_551_000 + n, people=3),
    "floats": of_people(lambda n: 4711.0 + n),
    "coordinates": of_people(lambda n: 52.5 + n / 7),
    "emails": of_people(lambda n: f"{'xyz'[n]}@ads.example", people=3),
    "addresses": of_people(lambda n: f"10.7.1.{n}", people=4),
    "addresses_v6": of_people(lambda n: f"fe80:12:{n}:a1::7", people=3),
    "devices": of_people(lambda n: str(UUID(int=2**120 + n)), people=3),
    "digests": of_people(lambda n: f"{2**60 + n:x}", people=2),
    "phones": of_people(lambda n: f"+49 170 55{n} 11 22", people=2),
    "lists": of_people(lambda n: [f"person-{n}", f"person-{n + 1}"]),
    "structs": of_people(lambda n: {"who": f"person-{n}"}),
    "birth_dates": of_people(lambda n: date(1970, 3, 5) + timedelta(days=91 * n)),
    "unique_words": [f"word {chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(ROWS)],
}


@pytest.mark.parametrize("kind", IDENTIFYING)
def test_identifying_values_are_not_stored(stored_check, kind):
    values = IDENTIFYING[kind]
    text, examples = stored_check({"c3": pa.array(values)})
    assert {examples[name] for name in examples if name.startswith("c3")} == {None}
    assert examples["c0"] is None, "the key of a row"
    assert examples["c1"], "the time"
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    shown = {str(item["who"] if isinstance(item, dict) else item) for item in flat}
    plain = text.replace(",", "")
    assert [
        example for example in shown if re.search(rf"(?<![\w.]){re.escape(example)}\b", plain)
    ] == []


def test_values_of_columns_named_after_people_are_not_stored(stored_check):
    values = of_people(lambda n: ["Ann", "Bob"][n], people=2)
    _, examples = stored_check(
        {name: pa.array(values) for name in ("member", "first_name", "Email")}
    )
    assert {examples[name] for name in ("member", "first_name", "Email")} == {None}


def test_category_values_are_shown(stored_check):
    text, examples = stored_check(
        {
            "c3": pa.array(of_people(lambda n: ["DE", "FR", "New York"][n], people=3)),
            "c4": pa.array(of_people(lambda n: n % 12)),
            "c5": pa.array(of_people(lambda n: [["sport", "cars"], ["news"]][n], people=2)),
            "c6": pa.array(of_people(lambda n: ["300x250", "summer-sale-2026"][n], people=2)),
        }
    )
    assert set(examples["c3"]) == {"DE", "FR", "New York"}
    assert set(examples["c6"]) == {"300x250", "summer-sale-2026"}
    assert examples["c2"]
    assert examples["c4"]
    assert "sport" in str(examples["c5"])
    assert "New York" in text
    assert "not shown" in text


def test_a_value_of_too_many_rows_is_not_stored_if_it_may_be_a_user(stored_check):
    users = np.array(of_people(lambda n: f"person-{n}"), object)
    users[: ROWS // 2] = "Ann Other"
    text, _ = stored_check({"user_id": pa.array(users.tolist())})
    assert "Ann Other" not in text
    assert 'anonymous: ["???"]  # 50.0% of the rows have no user' in html.unescape(text)
    assert "<p>50.0% of the rows have no user.</p>" in text


def test_only_the_pattern_of_an_unreadable_time_is_stored(stored_check):
    odd = [f"on the {row % 28 + 1}.  day, noon" for row in range(ROWS)]
    folder_text, examples = stored_check({"c1": pa.array(odd), "event_time": pa.array(odd)})
    assert examples["event_time"] is None
    assert "aa aaa 9. aaa, aaaa" in folder_text
    assert "aa aaa 9.  aaa, aaaa" in folder_text
    assert "on the 1." not in folder_text


def test_examples_stored_by_an_earlier_version_are_not_shown(stored_check, tmp_path):
    stored_check({"c3": pa.array(of_people(lambda n: ["DE", "FR"][n], people=2))})
    (path,) = (tmp_path / "workspace" / "data_checks").glob("*.json")
    tree = json.loads(path.read_text())
    assert tree.pop("judged_by_values")
    path.write_text(json.dumps(tree))
    (check,) = saved_checks(Workspace(str(tmp_path / "workspace")))
    assert {column["examples"] for column in check.report["columns"]} == {None}
    assert "FR" not in data_check_page(check, Links(), [])
