"""When a run runs again with other rows, the earlier results of its later stages are invalid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from nightbid.errors import PromotionRefused
from nightbid.promotion import promote_by_hand
from nightbid.storage.workspace import Workspace
from nights import SMALL, Shell

RUN = "small-2026-01-05"


@pytest.mark.slow
def test_stale_results_are_hidden_and_not_promotable_until_stages_rerun(
    shell: Shell, two_nights: Path
) -> None:
    shell.write()
    shell.take(two_nights)

    def listed() -> dict[str, Any]:
        runs = json.loads(shell.run("runs", "small", "--json")[1])
        return next(run for run in runs if run["run_id"] == RUN)

    before = listed()
    assert before["verdict"]
    assert before["auc"]["value"]

    # The same night again reuses everything and revokes nothing.
    assert shell.run("run", "small", "--date", "2026-01-05")[0] == 0
    same = listed()
    assert (same["verdict"], same["auc"], same["state"]) == (
        before["verdict"], before["auc"], "done",
    )  # fmt: skip

    # The day was loaded again with other rows, and the run has reached its features.
    shell.write(source={**SMALL["source"], "rows_per_day": 3100})
    code, output = shell.run("run", "small", "--date", "2026-01-05", "--until", "featurize")
    assert code == 0, output
    now = listed()
    assert now["verdict"] == ""
    assert now["auc"]["value"] is None
    assert [gate["word"] for gate in now["gates"] if gate["gate"] == "model"] == ["waiting"]
    shown = shell.run("gates", "show", "small", RUN)[1]
    assert "raw" in shown
    assert "model" not in shown, shown
    with pytest.raises(PromotionRefused, match="has not checked the current outputs"):
        promote_by_hand(Workspace(str(shell.workspace)), "small", RUN, "a good reason", "ann")
