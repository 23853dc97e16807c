"""Run the job with tensorflow-transform on record batches, without converting to examples."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from job import MIN_COUNT, NUMBERS, STANDARD, TEXTS, TOP_K, main
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils
from tfx_bsl.public import tfxio

SPEC = {name: tf.io.VarLenFeature(tf.float32) for name in NUMBERS} | {
    name: tf.io.VarLenFeature(tf.string) for name in TEXTS
}
METADATA = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(SPEC))
RAGGED = {
    name: pa.large_list(pa.float32() if name in NUMBERS else pa.large_binary()) for name in SPEC
}


def preprocess(inputs):
    outputs = {}
    for name in NUMBERS:
        value = tf.math.log1p(inputs[name].values)
        dense = tft.sparse_tensor_to_dense_with_shape(
            tf.SparseTensor(inputs[name].indices, value, inputs[name].dense_shape), [None, 1], 0.0
        )[:, 0]
        if name in STANDARD:
            spread = tft.var(value) ** 0.5
            center = tft.mean(value)
        else:
            low, center, high = tf.unstack(tft.quantiles(value, 4, epsilon=0.01)[0], 3)
            spread = high - low
        known = tf.sparse.to_indicator(
            tf.SparseTensor(
                inputs[name].indices,
                tf.zeros_like(value, tf.int64),
                inputs[name].dense_shape,
            ),
            1,
        )[:, 0]
        outputs[name] = tf.where(known, (dense - center) / spread, 0.0)
    for name in TEXTS:
        ids = tft.compute_and_apply_vocabulary(
            inputs[name],
            top_k=TOP_K,
            frequency_threshold=MIN_COUNT,
            default_value=-1,
            vocab_filename=name,
        )
        dense = tft.sparse_tensor_to_dense_with_shape(
            tf.SparseTensor(ids.indices, ids.values + 2, ids.dense_shape), [None, 1], 0
        )
        outputs[name] = dense[:, 0]  # tensorflow-transform returns int64 only
    return outputs


def ragged(table: pa.Table) -> pa.RecordBatch:
    columns = []
    for name in SPEC:
        column = table[name].cast(RAGGED[name].value_type, safe=False).combine_chunks()
        ends = pa.concat_arrays(
            [pa.array([0], pa.int64()), column.is_valid().cast(pa.int64())]
        ).to_numpy()
        columns.append(pa.LargeListArray.from_arrays(ends.cumsum(), column.drop_null()))
    return pa.RecordBatch.from_arrays(columns, list(SPEC))


def _pipeline() -> beam.Pipeline:
    # Besides TensorFlow's own threads there is one worker, as in `rows.py`: with multi_threading,
    # Beam 2.77 sends incomplete elements and loses rows.
    options = PipelineOptions([], direct_num_workers=1, direct_running_mode="in_memory")
    return beam.Pipeline(runner=FnApiRunner(), options=options)


def _config():
    schema = pa.schema(list(RAGGED.items()))
    return tfxio.TensorAdapterConfig(
        arrow_schema=schema,
        tensor_representations={name: _representation(name) for name in SPEC},
    )


def _representation(name: str):
    from tensorflow_metadata.proto.v0 import schema_pb2

    return schema_pb2.TensorRepresentation(
        varlen_sparse_tensor=schema_pb2.TensorRepresentation.VarLenSparseTensor(column_name=name)
    )


def analyze(files: list[str], work: Path) -> dict[str, float]:
    shutil.rmtree(work / "learned", ignore_errors=True)
    with _pipeline() as pipeline, tft_beam.Context(temp_dir=str(work / "temporary")):
        rows = (
            pipeline
            | beam.Create(files)
            | beam.io.ReadAllFromParquetBatched(columns=list(SPEC))
            | beam.Map(ragged)
        )
        learned = (rows, _config()) | tft_beam.AnalyzeDataset(preprocess)
        learned | tft_beam.WriteTransformFn(str(work / "learned"))
    output = tft.TFTransformOutput(str(work / "learned"))
    return {"tokens": sum(output.vocabulary_size_by_name(name) for name in TEXTS)}


class Write(beam.DoFn):
    def __init__(self, folder: str):
        self._folder = folder

    def process(self, batch):
        rows = batch[0] if isinstance(batch, tuple) else batch
        columns = {}
        for name in SPEC:
            column = rows.column(rows.schema.get_field_index(name))
            columns[name] = column.flatten().cast(pa.int32() if name in TEXTS else pa.float32())
        path = Path(self._folder) / f"{uuid.uuid4().hex}.parquet"
        pq.write_table(pa.table(columns), path, compression="zstd", use_dictionary=False)
        yield rows.num_rows


def transform(files: list[str], work: Path) -> dict[str, float]:
    """Transform the rows; leaving out the row's own columns is less work than the others do."""
    output = work / "rows"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    with _pipeline() as pipeline, tft_beam.Context(temp_dir=str(work / "temporary")):
        learned = pipeline | tft_beam.ReadTransformFn(str(work / "learned"))
        rows = (
            pipeline
            | beam.Create(files)
            | beam.io.ReadAllFromParquetBatched(columns=list(SPEC))
            | beam.Map(ragged)
        )
        transformed, _ = ((rows, _config()), learned) | tft_beam.TransformDataset(
            output_record_batches=True
        )
        transformed | beam.ParDo(Write(str(output)))
    return {"rows": sum(pq.read_metadata(path).num_rows for path in output.iterdir())}


if __name__ == "__main__":
    main(analyze, transform)
