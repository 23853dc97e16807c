"""The bundle needs raw rows alone and answers as the model it was exported from."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from nightbid.errors import CorruptDataError, MissingDataError
from nightbid.models.predict import load_model
from nightbid.serving.bundle import Bundle
from nightbid.serving.lookup import Lookup


def test_the_export_finds_no_skew_and_no_parity_difference(night):
    metrics = night.stage("export").manifest.metrics
    assert metrics["skew_rows"] == 3 * 2000
    assert metrics["skew_mismatches"] == 0
    assert metrics["parity_max_difference"] < 1e-5
    assert metrics["bytes"] > 0


def test_the_bundle_scores_raw_rows_like_the_trained_model(night):
    bundle = Bundle.load(night.folder("export"))
    raw = night.raw()
    reference = load_model(night.folder("train") / "model").predict(bundle.fitted.transform(raw))
    assert len(np.unique(reference)) > 500
    assert bundle.score(raw) == pytest.approx(reference, abs=1e-5)
    assert bundle.predict(bundle.fitted.transform(raw)) == pytest.approx(reference, abs=1e-5)


def test_the_saved_model_gives_the_same_scores_and_has_warmup_requests(night):
    from nightbid.models.runtime import tensorflow

    tf = tensorflow()
    folder = night.folder("export")
    bundle = Bundle.load(folder)
    feed = bundle.look_up(night.raw())
    serve = tf.saved_model.load(str(folder / "saved_model")).signatures["serving_default"]

    def probabilities(inputs):
        outputs = serve(**{name: tf.constant(values) for name, values in inputs.items()})
        assert set(outputs) == {"probability"}
        return outputs["probability"].numpy()

    expected = bundle.run(feed)
    assert probabilities(feed) == pytest.approx(expected, abs=1e-6)
    for size in (1, 7):
        part = {name: values[:size] for name, values in feed.items()}
        assert probabilities(part) == pytest.approx(expected[:size], abs=1e-6)
    # TensorFlow Serving sends these requests before the model takes traffic.
    path = folder / "saved_model" / "assets.extra" / "tf_serving_warmup_requests"
    requests = [_request(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]
    assert [len(probabilities(inputs)) for inputs in requests] == [1, 100]
    kinds = serve.structured_input_signature[1]
    for inputs in requests:
        assert {name: values.dtype for name, values in inputs.items()} == {
            name: spec.dtype.as_numpy_dtype for name, spec in kinds.items()
        }


def _request(log: bytes) -> dict[str, np.ndarray]:
    """Read the inputs of a PredictionLog, by the definition in TensorFlow Serving's files."""
    import tensorflow as tf
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from tensorflow.core.framework import tensor_pb2

    file = descriptor_pb2.FileDescriptorProto(name="log.proto", package="log", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, str]) -> None:
        definition = file.message_type.add(name=name)
        for field, number, kind in fields:
            one = definition.field.add(name=field, number=number, label=3 if kind == "Entry" else 1)
            if kind[0].isupper():
                one.type, one.type_name = 11, f".log.{kind}"
            else:
                one.type = {"text": 9, "bytes": 12}[kind]

    message("Log", ("predict_log", 6, "Predict"))
    message("Predict", ("request", 1, "Request"))
    message("Request", ("model_spec", 1, "Spec"), ("inputs", 2, "Entry"))
    message("Spec", ("name", 1, "text"), ("signature_name", 3, "text"))
    message("Entry", ("key", 1, "text"), ("value", 2, "bytes"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    read = message_factory.GetMessageClass(pool.FindMessageTypeByName("log.Log")).FromString(log)
    request = read.predict_log.request
    assert request.model_spec.signature_name == "serving_default"
    return {
        entry.key: tf.make_ndarray(tensor_pb2.TensorProto.FromString(entry.value))
        for entry in request.inputs
    }


def test_scoring_needs_no_position_or_outcome_columns(night):
    bundle = Bundle.load(night.folder("export"))
    raw = night.raw()
    known = [
        name
        for name in raw.column_names
        if name not in ("position", "click", "conversion") and not name.startswith("nb_")
    ]
    assert (bundle.score(raw.select(known)) == bundle.score(raw)).all()


def test_loading_a_bundle_does_not_import_tensorflow(night):
    code = (
        "import sys; from pathlib import Path; from nightbid.serving.bundle import Bundle;"
        f"Bundle.load(Path({str(night.folder('export'))!r}));"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_lookup_equals_the_transform_bit_for_bit(night, draw):
    bundle = Bundle.load(night.folder("export"))
    lookup = Lookup(bundle.fitted)
    raw = night.raw()
    for _ in range(12):
        part = raw.take(pa.array(draw.integers(0, len(raw), draw.integers(1, 200))))
        expected = bundle.feed(bundle.fitted.transform(part))
        inputs = lookup.inputs(part)
        assert set(inputs) == set(expected)
        for name, values in inputs.items():
            assert values.dtype == expected[name].dtype
            assert values.tobytes() == expected[name].tobytes(), name


def test_lookup_accepts_a_column_that_changes_its_string_type(night):
    bundle = Bundle.load(night.folder("export"))
    raw = night.raw().slice(0, 50)
    before = bundle.look_up(raw)
    place = raw.column_names.index("ad_id")
    renamed = raw.set_column(place, "ad_id", raw["ad_id"].cast(pa.string()))
    after = bundle.look_up(renamed)
    assert all((after[name] == before[name]).all() for name in before)


def test_a_missing_raw_column_is_reported_by_name(night):
    bundle = Bundle.load(night.folder("export"))
    with pytest.raises(MissingDataError, match="'ad_category' is missing"):
        bundle.score(night.raw().drop_columns(["ad_category"]))


def test_scoring_no_rows_gives_no_scores(night):
    bundle = Bundle.load(night.folder("export"))
    assert bundle.score(night.raw().slice(0, 0)).shape == (0,)


def test_a_missing_or_damaged_bundle_is_rejected(night, tmp_path):
    with pytest.raises(MissingDataError, match=r"no bundle\.json"):
        Bundle.load(tmp_path)
    folder = tmp_path / "bundle"
    shutil.copytree(night.folder("export"), folder)
    graph = folder / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:1000])
    with pytest.raises(CorruptDataError, match="unreadable graph"):
        Bundle.load(folder)
