"""Warm-up requests of a SavedModel, which TensorFlow Serving runs when it loads the model.

`assets.extra/tf_serving_warmup_requests` contains TFRecords of `PredictionLog`. The few fields of a
request are encoded here, because the package with these messages pins TensorFlow's version.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

FILE = "assets.extra/tf_serving_warmup_requests"
SIGNATURE = "serving_default"
SIZES = (1, 100)
"""Number of rows of each request."""
# Field numbers of PredictionLog, PredictLog, PredictRequest, ModelSpec and of a map's entry.
PREDICT_LOG, REQUEST, MODEL_SPEC, INPUTS, SIGNATURE_NAME, MAP_KEY, MAP_VALUE = 6, 1, 1, 2, 3, 1, 2


def write_warm_up(folder: Path, feed: dict[str, npt.NDArray[Any]]) -> None:
    """Write warm-up requests into a SavedModel.

    Args:
        folder: Folder of the SavedModel.
        feed: Input of the signature → [rows] or [rows, length]; rows are repeated as needed.
    """
    path = folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = len(next(iter(feed.values())))
    with tf.io.TFRecordWriter(str(path)) as file:
        for size in SIZES if rows else ():
            at = np.arange(size) % rows
            file.write(prediction_log({name: values[at] for name, values in feed.items()}))


def prediction_log(feed: dict[str, npt.NDArray[Any]]) -> bytes:
    """Encode a `PredictionLog` that calls the default signature with these inputs."""
    request = _field(MODEL_SPEC, _field(SIGNATURE_NAME, SIGNATURE.encode()))
    for name, values in sorted(feed.items()):
        tensor = tf.make_tensor_proto(values).SerializeToString(deterministic=True)
        request += _field(INPUTS, _field(MAP_KEY, name.encode()) + _field(MAP_VALUE, tensor))
    return _field(PREDICT_LOG, _field(REQUEST, request))


def _field(number: int, value: bytes) -> bytes:
    """Encode a field of a protocol buffer that holds bytes, a string or a message."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
