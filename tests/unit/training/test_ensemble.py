"""An ensemble trains each member, weights them on validation rows and serves one graph."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
from nightbid.config.models import Model, Train
from nightbid.errors import ConfigError
from nightbid.models.predict import load_model
from nightbid.schema import LABEL, split_files
from nightbid.serving.export import write_graph
from nightbid.training.stage import asked_candidate, run
from sklearn.metrics import log_loss

MEMBERS = {
    "members": ["deep", "gradient_boosted_trees"],
    "parameters": {"gradient_boosted_trees": {"trees": 30}},
}
TRAIN = Train(batch_size=256, epochs=2, learning_rate=5e-3)


def test_an_ensemble_is_no_worse_than_its_members_and_exports_to_1e_6(featurized, task_of) -> None:
    model = Model(architecture="ensemble", embedding_dim=4, embedding_l2=1, parameters=MEMBERS)
    task = task_of(featurized, model, TRAIN)
    outcome = run(task)
    weights = outcome.metrics["weights"]
    assert sum(weights.values()) == pytest.approx(1)
    assert min(weights.values()) >= 0
    assert outcome.summary.startswith("ensemble, ")
    assert "weights deep 0." in outcome.summary

    folder = task.output / "model"
    both = load_model(folder)
    assert json.loads((folder / "weights.json").read_text()) == weights
    validate = pq.read_table(split_files(featurized, "validate")[0])
    labels = validate[LABEL].to_numpy()
    alone = [log_loss(labels, member.predict(validate)) for member in both.members.values()]
    assert log_loss(labels, both.predict(validate)) <= min(alone) + 1e-9

    write_graph(both, task.output / "model.onnx")
    session = onnxruntime.InferenceSession(task.output / "model.onnx")
    rows = pq.read_table(split_files(featurized, "evaluate")[0])
    feed = {entry.name: rows[entry.name].to_numpy() for entry in session.get_inputs()}
    served = session.run(["probability"], feed)[0]
    assert served.shape == (len(rows),)
    assert np.abs(served - both.predict(rows)).max() < 1e-6


@pytest.mark.parametrize(
    ("parameters", "train", "message"),
    [
        ({"members": ["deep"]}, TRAIN, "name two or more architectures"),
        ({"members": ["deep", "esmm"]}, TRAIN, "esmm cannot be a member"),
        ({"members": ["deep", "ensemble"]}, TRAIN, "ensemble cannot be a member"),
        ({"members": ["deep", "deepfn"]}, TRAIN, "did you mean 'deepfm'"),
        ({**MEMBERS, "parameters": {"dcn_v2": {}}}, TRAIN, "'dcn_v2' is not a member"),
        ({**MEMBERS, "parameters": {"deep": {"hiden": [8]}}}, TRAIN, "did you mean 'hidden'"),
        (MEMBERS, Train(mode="warm"), "set it to full for trees and ensembles"),
    ],
)
def test_invalid_ensembles_are_rejected(featurized, task_of, parameters, train, message) -> None:
    task = task_of(featurized, Model(architecture="ensemble", parameters=parameters), train)
    with pytest.raises(ConfigError, match=message):
        asked_candidate(task)
