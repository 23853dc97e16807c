"""When a run runs again with other rows, the earlier results of its later stages are invalid."""

from __future__ import annotations

import json

import pytest
from nightbid.errors import PromotionRefused
from nightbid.promotion import promote_by_hand
from nightbid.storage.workspace import Workspace

from tests.pipeline.conftest import Shell

RUN = "small-2026-01-08"


@pytest.mark.slow
def test_until_a_stage_has_run_again_its_result_is_not_shown_and_cannot_be_promoted(
    shell: Shell,
) -> None:
    source = {"kind": "simulator", "rows_per_day": 1500, "users": 300, "ads": 100}
    shell.write(source=source)
    code, output = shell.run("run", "small", "--date", "2026-01-08")
    assert code == 0, output
    (before,) = json.loads(shell.run("runs", "small", "--json")[1])
    assert before["verdict"]
    assert before["auc"]["value"]

    # The same night again reuses everything and revokes nothing.
    assert shell.run("run", "small", "--date", "2026-01-08")[0] == 0
    (same,) = json.loads(shell.run("runs", "small", "--json")[1])
    assert (same["verdict"], same["auc"], same["state"]) == (
        before["verdict"], before["auc"], "done",
    )  # fmt: skip

    # The day was loaded again with other rows, and the run has reached its features.
    shell.write(source={**source, "rows_per_day": 1600})
    code, output = shell.run("run", "small", "--date", "2026-01-08", "--until", "featurize")
    assert code == 0, output
    (now,) = json.loads(shell.run("runs", "small", "--json")[1])
    assert now["verdict"] == ""
    assert now["auc"]["value"] is None
    assert [gate["word"] for gate in now["gates"] if gate["gate"] == "model"] == ["waiting"]
    shown = shell.run("gates", "show", "small", RUN)[1]
    assert "raw" in shown
    assert "model" not in shown, shown
    with pytest.raises(PromotionRefused, match="has not judged the outputs of now"):
        promote_by_hand(Workspace(str(shell.workspace)), "small", RUN, "a good reason", "ann")
