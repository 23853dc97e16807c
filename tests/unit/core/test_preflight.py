"""All errors in a pipeline's settings are reported, one line each, before anything runs."""

from __future__ import annotations

import datetime as dt
import re
import subprocess
import sys

import pytest
from nightbid.config.models import Train
from nightbid.config.pipeline import PipelineSpec
from nightbid.errors import ConfigError
from nightbid.preflight import check_settings, checked_pipeline

GOOD = {
    "pipeline": "t",
    "source": {"kind": "simulator", "rows_per_day": 100},
    "features": {"site_id": "vocabulary"},
}
NIGHT = dt.date(2026, 1, 8)


def test_all_invalid_settings_are_reported_at_once(tmp_path):
    spec = PipelineSpec.model_validate(
        {
            **GOOD,
            "features": {"site": {"column": "sit_id"}},
            "model": {"parameters": {"cros_layers": 2, "dropout": "much"}},
            "baseline": {"architecture": "logistic_regresion"},
            "evaluate": {"slices": ["devise_type"]},
        }
    )
    with pytest.raises(ConfigError) as caught:
        check_settings(spec, NIGHT, tmp_path)
    line = str(caught.value)
    assert line.startswith("t.yaml: 5 settings are wrong: ")
    for part in (
        "dcn_v2 has no hyperparameter 'cros_layers', did you mean 'cross_layers'?",
        "model.parameters.dropout: 'much' is not of type float",
        "baseline.architecture: no architecture called 'logistic_regresion', did you mean",
        "features.site: column 'sit_id' is missing, did you mean 'site_id'?",
        "evaluate.slices: column 'devise_type' is missing, did you mean 'device_type'?",
    ):
        assert part in line
    assert "\n" not in line


def test_yaml_errors_do_not_hide_other_errors(tmp_path):
    text = """
pipeline: t
source: {kind: simulator, rows_per_day: 100, sed: 3}
features:
  site_id: vocabulary
  click: numeric
  age: {transform: numerc}
  region: {transform: vocabulary, column: regoin}
model: {architecture: dcn_v3}
train: {epochs: 0}
evaluate: {slices: [devise_type]}
arrival: {asset: logs}
schedule: "0 3 * * *"
"""
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        checked_pipeline("t", tmp_path, ("runner.kind=dusk",), NIGHT, tmp_path)
    lines = str(caught.value).partition(" → correct")[0].split("\n")
    assert all(line.startswith("t.yaml: ") for line in lines)
    messages = [line.removeprefix("t.yaml: ") for line in lines]
    for part in (
        "unknown key 'source.sed' of 'simulator', did you mean 'seed'?",
        "features.age",
        "train.epochs",
        "runner.kind",
        "arrival.asset 'logs' starts the night, and so does schedule",
        "feature 'click' reads 'click', which is label.column",
        "model.architecture: no architecture called 'dcn_v3', did you mean 'dcn_v2'?",
        "features.region: column 'regoin' is missing, did you mean 'region'?",
        "evaluate.slices: column 'devise_type' is missing, did you mean 'device_type'?",
    ):
        assert any(line.startswith(part) for line in messages), (part, messages)
    assert len(messages) == 9


@pytest.mark.parametrize("wrong", ["nulls: [unknown]", "renames: {shown_at: time}"])
def test_logs_are_not_read_with_half_of_a_source(tmp_path, wrong):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "2026-01-08.jsonl").write_text('{"shown_at": 1, "place": "a"}\n')
    text = f"""
pipeline: t
source: {{kind: jsonl, folder: {tmp_path / "logs"}, {wrong}}}
columns: {{key: request, time: served_at}}
features: {{place: vocabulary}}
evaluate: {{slices: [place]}}
model: {{architecture: dcn_v3}}
"""
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        checked_pipeline("t", tmp_path, (), NIGHT, tmp_path)
    assert wrong.split(":")[0] in str(caught.value)
    assert "dcn_v3" in str(caught.value)
    assert "is missing" not in str(caught.value)


def test_a_pipeline_without_valid_features_is_rejected(tmp_path):
    (tmp_path / "t.yaml").write_text("pipeline: t\nsource: {kind: nowhere}\nfeatures: 3\n")
    with pytest.raises(ConfigError, match="features: must be a block of `key: value` lines, got 3"):
        checked_pipeline("t", tmp_path, (), NIGHT, tmp_path)


def test_unknown_ensemble_members_are_rejected(tmp_path):
    members = ["dcn_v2", "gradient_bosted_trees"]
    model = {"architecture": "ensemble", "parameters": {"members": members}}
    spec = PipelineSpec.model_validate({**GOOD, "model": model})
    wrong = "no architecture called 'gradient_bosted_trees', did you mean 'gradient_boosted_trees'?"
    with pytest.raises(ConfigError, match=f"model.parameters.members: {re.escape(wrong)}"):
        check_settings(spec, NIGHT, tmp_path)


def test_unknown_columns_and_notify_hooks_are_rejected(tmp_path):
    spec = PipelineSpec.model_validate(
        {
            **GOOD,
            "columns": {"price": "win_prise", "position": "position"},
            "label": {"column": "clik", "given": "vieved"},
            "baseline": {"column": "legacy"},
            "gates": {"notify": "no_such_module:tell"},
        }
    )
    with pytest.raises(ConfigError) as caught:
        check_settings(spec, NIGHT, tmp_path)
    line = str(caught.value)
    for part in (
        "5 settings are wrong",
        "columns.price: column 'win_prise' is missing, did you mean 'win_price'?",
        "label.column: column 'clik' is missing, did you mean 'click'?",
        "label.given: column 'vieved' is missing",
        "baseline.column: column 'legacy' is missing",
        "gates.notify: there is no module 'no_such_module' to import",
    ):
        assert part in line


@pytest.mark.parametrize("schedule", ["every_day", "0 25 * * *", "0 3 * *", "@nightly"])
def test_invalid_schedules_are_rejected(schedule):
    with pytest.raises(ValueError, match="is not a schedule"):
        PipelineSpec.model_validate({**GOOD, "schedule": schedule})


@pytest.mark.slow
def test_preflight_does_not_import_tensorflow():
    code = "import sys, nightbid.preflight; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_valid_settings_pass(tmp_path):
    check_settings(PipelineSpec.model_validate(GOOD), NIGHT, tmp_path)


@pytest.mark.parametrize(
    ("rows", "settings", "sized"),
    [
        (1_000_000, {}, (2048, 3)),
        (71_000, {}, (256, 3)),
        (8_000, {}, (128, 8)),
        (500, {}, (128, 20)),
        (8_000, {"epochs": 2}, (2048, 2)),
        (8_000, {"batch_size": 512}, (512, 20)),
        (8_000, {"least_steps": 0}, (2048, 3)),
    ],
)
def test_batch_size_and_epochs_depend_on_the_number_of_rows(rows, settings, sized):
    assert Train(**settings).sized(rows) == sized
