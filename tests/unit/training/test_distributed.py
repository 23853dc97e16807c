"""Tests TF_CONFIG as the services that start workers write it."""

from __future__ import annotations

import json

import pytest
from nightbid.errors import ConfigError
from nightbid.training.distributed import place_of_environment


def config(task: object, **cluster: list[str]) -> str:
    return json.dumps({"cluster": cluster, "task": task, "environment": "cloud", "job": "{}"})


@pytest.mark.parametrize(
    ("text", "workers", "first"),
    [
        ("", 1, True),
        (config({"type": "chief", "index": 0}, chief=["a:1"]), 1, True),
        (config({"type": "chief", "index": 0}, chief=["a:1"], worker=["b:1", "c:1"]), 3, True),
        (config({"type": "worker", "index": 1}, chief=["a:1"], worker=["b:1", "c:1"]), 3, False),
        (config({"type": "worker", "index": 0}, chief=["a:1"], worker=["b:1"]), 2, False),
        (config({"type": "worker", "index": 0}, worker=["a:1", "b:1"]), 2, True),
        (config({"type": "workerpool0", "index": 0}, workerpool0=["a:1"],
                workerpool1=["b:1"]), 2, True),
        (config({"type": "workerpool1", "index": 0}, workerpool0=["a:1"],
                workerpool1=["b:1"]), 2, False),
        (config({"type": "master", "index": 0}, master=["a:1"], worker=["b:1"], ps=["p:1"]),
         2, True),
    ],
)  # fmt: skip
def test_tf_config_gives_worker_count_and_first_worker(
    text: str, workers: int, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    place = place_of_environment()
    assert (place.workers, place.is_first) == (workers, first)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        config({"type": "worker", "index": 2}, worker=["a:1", "b:1"]),
        config({"type": "evaluator", "index": 0}, worker=["a:1", "b:1"]),
    ],
)
def test_unreadable_tf_config_is_rejected(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ConfigError, match="TF_CONFIG: cannot read"):
        place_of_environment()
