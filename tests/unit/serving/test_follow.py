"""Tests how a scorer follows the champion, in one process."""

from __future__ import annotations

import json
import shutil

import pyarrow as pa
from nightbid.night.champion import ChampionPointer
from nightbid.night.manifest import Manifest
from nightbid.scorer.follow import Follower
from nightbid.serving.json_values import to_json
from nightbid.storage.workspace import Workspace

OF_ADS = ["ad_id", "ad_category"]


def test_the_follower_warms_up_new_champions_and_survives_restores(night, tmp_path, draw):
    workspace = Workspace(tmp_path)
    pointer = ChampionPointer(workspace, "small")

    def promote(name: str) -> None:
        shutil.copytree(night.folder("export"), tmp_path / name)
        manifest = Manifest.model_validate_json((tmp_path / name / "manifest.json").read_text())
        pointer.promote(run_id=name, night=night.run.date, bundle_uri=name,
                        bundle_digest=manifest.digest, reason="tests")  # fmt: skip

    promote("first")
    follower = Follower(workspace, "small")
    before = follower.look().served
    raw = night.raw().select(before.columns.names)
    rows = json.loads(to_json(raw.take(pa.array(draw.integers(0, len(raw), 31)))))["rows"]
    context = {name: value for name, value in rows[0].items() if name not in OF_ADS}
    ads = [{name: row[name] for name in OF_ADS} for row in rows[1:]]
    body = json.dumps({"context": context, "rows": ads}).encode()
    expected = before.answer(body).tolist()
    promote("second")
    after = follower.look().served
    assert after.champion.number == 2
    after.newly_missed()
    assert after.answer(body).tolist() == expected
    # A backup from before the second promotion is restored; another bundle gets its number.
    (tmp_path / "champion" / "small" / "history" / "000002.json").unlink()
    assert follower.look().served.champion.run_id == "first"
    promote("third")
    assert follower.look().served.name["run_id"] == "third"
    # The workspace becomes unavailable and comes back.
    (tmp_path / "champion").rename(tmp_path / "away")
    assert follower.look().served.name["run_id"] == "third"
    assert "the champion history is gone" in follower.state.trouble
    (tmp_path / "away").rename(tmp_path / "champion")
    assert follower.look().served.name["run_id"] == "third"
    assert not follower.state.trouble
    # Floats and times seldom repeat, so they are not cached.
    assert after.newly_missed() <= 3
    assert after.newly_unprepared() == before.newly_unprepared() == 0
