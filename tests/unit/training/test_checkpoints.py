"""After a kill -9 during training, the next attempt ends with exactly the same weights."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from nightbid.config.models import Model, Train
from nightbid.config.pipeline import Label
from nightbid.night.progress import silent, unwatched
from nightbid.storage.workspace import file_digest
from nightbid.training.checkpoints import Checkpoints
from nightbid.training.job import FitJob, run_job
from preloaded import COMMANDS

# Dropout and the blanking of positions draw random numbers; checkpoints hold their states.
MODEL = Model(architecture="dcn_v2", embedding_dim=4, embedding_l2=1, parameters={"dropout": 0.2})
TRAIN = Train(batch_size=250, epochs=4, patience=3, checkpoint_seconds=0)
WORKER = "nightbid.training.workers"
KILLED = """
import os, signal, sys
from nightbid.training import workers
from nightbid.training.checkpoints import Checkpoints

save, due = Checkpoints.save, Checkpoints.due.fget
left = []

def noted(self, arrays, place):
    save(self, arrays, place)
    # Past the first epoch, so that the best weights so far are needed too.
    if (place["epoch"], place["batch"]) > (2, 3):
        left.extend("123")

def dying(self):
    if not left:
        return due(self)
    left.pop()
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return False

Checkpoints.save, Checkpoints.due = noted, property(dying)
sys.exit(workers.main(sys.argv[1]))
"""
"""A worker that is killed some batches after a checkpoint, whatever the speed of the machine."""


def job(featurized, folder, checkpoints=None, **changes):
    folder.mkdir()
    train = TRAIN.model_copy(update=changes)
    training_job = FitJob(
        model=MODEL, train=train, label=Label(), seed=3, featurized=featurized, output=folder,
        checkpoints=checkpoints,
    )  # fmt: skip
    path = folder / "job.json"
    path.write_text(training_job.model_dump_json())
    return path


def arrays(folder):
    """Return digests of the weights and, where a later night needs them, of the moments."""
    return {path.name: file_digest(path) for path in (folder / "model").glob("*.npz")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"reset_tables": "each_epoch", "average": 0.9, "mode": "warm"}, {"memory_gb": 1e-4}],
    ids=str,
)
def test_a_killed_training_resumes_and_ends_with_the_same_weights(featurized, tmp_path, changes):
    whole = FitJob.model_validate_json(job(featurized, tmp_path / "whole", **changes).read_text())
    run_job(whole, progress=silent, watch=unwatched)
    checkpoints = tmp_path / "checkpoints"
    killed = job(featurized, tmp_path / "killed", checkpoints, **changes)
    (tmp_path / "worker.py").write_text(KILLED)
    died = COMMANDS.run(str(killed), module=str(tmp_path / "worker.py"))
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not (tmp_path / "killed" / "model").exists()
    ended = COMMANDS.run(str(killed), module=WORKER)
    assert ended.returncode == 0, ended.stderr
    assert '"resumed_at": 0.' in ended.stdout
    assert '"resumed_at": 0.0,' not in ended.stdout
    assert arrays(tmp_path / "killed") == arrays(tmp_path / "whole")
    assert ("optimizer.npz" in arrays(tmp_path / "whole")) == ("mode" in changes)


def test_a_truncated_checkpoint_is_ignored(tmp_path):
    checkpoints = Checkpoints(tmp_path, 0)
    checkpoints.save({"state": np.arange(1000)}, {"epoch": 2})
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(path.read_bytes()[:300])
    assert checkpoints.load() is None
    checkpoints.save({"state": np.arange(3)}, {"epoch": 3})
    arrays, place = checkpoints.load()
    assert place == {"epoch": 3}
    assert arrays["state"].tolist() == [0, 1, 2]


def test_only_the_first_worker_writes_checkpoints(tmp_path):
    other = Checkpoints(tmp_path, 0, writes=False)
    assert not other.due
    other.save({"state": np.arange(3)}, {"epoch": 3})
    assert not list(tmp_path.iterdir())
    assert not Checkpoints(None, 0).due
