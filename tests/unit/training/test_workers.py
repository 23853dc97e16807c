"""Two real worker processes learn what one process learns from the same batches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time

import numpy as np
import pytest
from nightbid.config.models import Model, Train
from nightbid.errors import ConfigError, StageError
from nightbid.models.folder import load_weights
from nightbid.training.stage import run

MODEL = Model(architecture="deep", embedding_dim=4, embedding_l2=1, parameters={"hidden": [8]})
TRAIN = Train(batch_size=250, epochs=2, patience=3)

pytestmark = pytest.mark.usefixtures("preloaded_python")


@pytest.fixture(scope="module")
def without_position(featurized, tmp_path_factory):
    """Remove random blanking, as one worker and two draw different numbers."""
    folder = tmp_path_factory.mktemp("plain")
    for path in featurized.glob("split=*"):
        (folder / path.name).symlink_to(path)
    (folder / "fitted").mkdir()
    schema = json.loads((featurized / "fitted" / "features.json").read_text())
    schema["inputs"] = [entry for entry in schema["inputs"] if not entry["training_only"]]
    (folder / "fitted" / "features.json").write_text(json.dumps(schema))
    return folder


@pytest.mark.slow
def test_two_workers_reach_the_loss_of_one(without_position, task_of):
    losses, weights = [], []
    for workers in (1, 2):
        train = TRAIN.model_copy(update={"workers": workers})
        task = task_of(without_position, MODEL, train, output=f"by{workers}")
        metrics = run(task).metrics
        assert metrics["workers"] == workers
        losses.append([epoch["loss"] for epoch in metrics["history"]])
        losses[-1] += [epoch["validation_log_loss"] for epoch in metrics["history"]]
        weights.append(load_weights(task.output / "model"))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for name, weight in weights[0].items():
        np.testing.assert_allclose(weights[1][name], weight, atol=1e-4)


@pytest.mark.slow
def test_two_workers_share_a_stream_and_reach_the_loss_of_one(without_position, task_of):
    losses = []
    for workers in (1, 2):
        train = TRAIN.model_copy(update={"workers": workers, "memory_gb": 1e-4})
        task = task_of(without_position, MODEL, train, output=f"by{workers}")
        metrics = run(task).metrics
        assert (metrics["workers"], metrics["memory"]["streams"]) == (workers, True)
        losses.append([epoch["validation_log_loss"] for epoch in metrics["history"]])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_a_killed_worker_ends_training_with_one_line(without_position, task_of):
    train = Train(batch_size=8, epochs=50, workers=2, patience=50)
    task = task_of(without_position, MODEL, train)
    children: list[int] = []

    def kill_one() -> None:
        while len(children) < 2:
            children.clear()
            output = subprocess.run(
                ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(os.getpid())],
                capture_output=True, text=True, check=True,
            ).stdout.splitlines()  # fmt: skip
            children.extend(
                int(line.split()[0]) for line in output if "nightbid.training.workers" in line
            )
            time.sleep(0.05)
        time.sleep(1)
        os.kill(max(children), signal.SIGKILL)

    threading.Thread(target=kill_one, daemon=True).start()
    with pytest.raises(
        StageError,
        match=r"worker 1 was killed .SIGKILL., often because memory ran out .*checkpoint",
    ):
        run(task)


def test_wrong_hyperparameters_are_rejected_before_workers_start(without_position, task_of):
    wrong = Model(architecture="deep", parameters={"hiden": [8]})
    with pytest.raises(ConfigError, match="did you mean 'hidden'"):
        run(task_of(without_position, wrong, Train(workers=2)))
