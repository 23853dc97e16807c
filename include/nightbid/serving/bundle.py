"""The bundle: everything needed to score raw rows, in one folder, without TensorFlow.

::

    bundle.json     description of the bundle
    columns.arrow   names and types of the raw columns that it reads
    fitted/         fitted features: they convert raw rows to model inputs
    model.onnx      the model that serves, with one named input per feature
    saved_model/    the same model for TensorFlow Serving (TensorFlow architectures)
    model/          the model as trained: reference for comparisons, and start of warm trainings
    judged.onnx     with `train.refit`: the judged model, before the refit on all days
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime
import pyarrow as pa

from nightbid.config.base import BaseModel, ConfigDict, ValidationError
from nightbid.errors import CorruptDataError, MissingDataError
from nightbid.features.fitted import FittedFeatures
from nightbid.models.layout import column_values, featurized_column, weight_column
from nightbid.schema import FeatureSchema
from nightbid.serving.lookup import BATCH, ArrowRows, Lookup

COLUMNS = "columns.arrow"
JUDGED = "judged.onnx"


class BundleCard(BaseModel):
    """Content of `bundle.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pipeline: str
    night: str
    architecture: str
    engine: str
    parameters: int
    inputs: tuple[str, ...]
    """Inputs of the graph, in order."""
    output: Literal["probability", "value"] = "probability"
    """Kind of prediction, and name of the graph's output."""


class Bundle:
    """An exported model with its features."""

    def __init__(self, card: BundleCard, fitted: FittedFeatures, session: Any) -> None:
        self.card = card
        self.fitted = fitted
        self._lookup = Lookup(fitted)
        self._session = session
        self._served = [
            model_input for model_input in fitted.schema.inputs if not model_input.training_only
        ]
        self._graph_inputs = {graph_input.name for graph_input in self._session.get_inputs()}

    @classmethod
    def load(cls, folder: Path, *, threads: int = 1, judged: bool = False) -> Bundle:
        """Load an exported bundle.

        Args:
            folder: Folder of the bundle.
            threads: Number of threads per request; 1 lets a server's cores serve many at once.
            judged: Whether to load the model that its night judged instead of a model refitted on
                all days, as for comparisons with another night's candidate.

        Raises:
            MissingDataError: The folder contains no bundle.
            CorruptDataError: A file of the bundle is damaged.
        """
        card = read_card(folder)
        fitted = FittedFeatures.load(folder / "fitted")
        graph = folder / JUDGED if judged and (folder / JUDGED).exists() else folder / "model.onnx"
        return cls(card, fitted, _session(graph, threads))

    def twin(self) -> Bundle:
        """Share model and features with another thread, which gets its own lookup cache."""
        return Bundle(self.card, self.fitted, self._session)

    @property
    def columns(self) -> list[str]:
        """Raw columns that scoring reads."""
        return self._lookup.columns

    @property
    def missed(self) -> int:
        """Number of values that the lookup has computed so far because they were not cached."""
        return self._lookup.missed

    @property
    def schema(self) -> FeatureSchema:
        """The model's inputs."""
        return self.fitted.schema

    def predict(self, featurized: pa.Table) -> npt.NDArray[np.float64]:
        """Score featurized rows.

        Args:
            featurized: Rows with the columns of `schema`, except training-only ones.

        Returns:
            Probabilities, or expected values; float64 [rows].

        Raises:
            MissingDataError: An input is missing.
        """
        feed = self.feed(featurized)
        parts = [
            self.run({name: column[start : start + BATCH] for name, column in feed.items()})
            for start in range(0, len(featurized), BATCH)
        ]
        return np.concatenate([*parts, np.zeros(0)]).astype(np.float64)

    def score(self, raw: ArrowRows, shared: ArrowRows | None = None) -> npt.NDArray[np.float64]:
        """Look up the features of raw rows and score them.

        Args:
            raw: Source columns of the features; those of training-only features may be missing.
            shared: One row with the columns that all rows have in common, which `raw` omits.

        Returns:
            Probabilities, or expected values; float64 [rows].

        Raises:
            MissingDataError: A source column is missing.
        """
        parts = []
        for start in range(0, len(raw), BATCH):
            feed = self._lookup.inputs(raw.slice(start, BATCH), shared)
            parts.append(self.run(feed))
        return np.concatenate([*parts, np.zeros(0)]).astype(np.float64)

    def predict_tasks(self, featurized: pa.Table) -> dict[str, npt.NDArray[np.float64]]:
        """Score featurized rows with each task of a multi-task model: column → [rows]."""
        feed = self.feed(featurized)
        names = [
            output.name for output in self._session.get_outputs() if output.name != self.card.output
        ]
        if not names:
            return {}
        outputs = self._session.run(names, self._used(feed))
        return {
            name.removeprefix(f"{self.card.output}_"): np.asarray(values, np.float64).reshape(-1)
            for name, values in zip(names, outputs, strict=True)
        }

    def look_up(self, raw: pa.Table) -> dict[str, npt.NDArray[Any]]:
        """Look up the graph's inputs for raw rows, from the cache where possible."""
        return self._lookup.inputs(raw)

    def feed(self, featurized: pa.Table) -> dict[str, npt.NDArray[Any]]:
        """Read the graph's inputs from featurized rows, mostly without copying."""
        feed: dict[str, npt.NDArray[Any]] = {}
        for model_input in self._served:
            dtype = np.float32 if model_input.kind == "float" else np.int32
            columns = [(model_input.name, dtype)]
            if model_input.kind == "bag":
                columns.append((weight_column(model_input.name), np.float32))
            for name, kind in columns:
                values = column_values(featurized_column(featurized, name), kind)
                feed[name] = (
                    values.reshape(-1, model_input.length) if model_input.length else values
                )
        return feed

    def run(self, feed: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """Score one batch of graph inputs; float32 [rows]."""
        (scores,) = self._session.run([self.card.output], self._used(feed))
        return np.asarray(scores, np.float32).reshape(-1)

    def _used(self, feed: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Select the inputs that the graph uses."""
        if len(feed) == len(self._graph_inputs):
            return feed
        return {name: feed[name] for name in self._graph_inputs}


def read_card(folder: Path) -> BundleCard:
    """Read the description of a bundle.

    Raises:
        MissingDataError: The folder contains no bundle.
        CorruptDataError: The description is damaged.
    """
    try:
        return BundleCard.model_validate_json((folder / "bundle.json").read_text())
    except FileNotFoundError as error:
        raise MissingDataError(
            "no bundle.json", where=str(folder), hint="use a folder that an export wrote"
        ) from error
    except ValueError as error:  # includes pydantic's ValidationError
        raise CorruptDataError(
            f"not a bundle: {_first(error)}",
            where=str(folder / "bundle.json"),
            hint="rerun the export",
        ) from error


def _first(error: ValueError) -> str:
    return str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else str(error)


def write_columns(folder: Path, columns: pa.Schema) -> None:
    """Write the names and log types of the raw columns."""
    (folder / COLUMNS).write_bytes(columns.remove_metadata().serialize().to_pybytes())


def read_columns(folder: Path) -> pa.Schema:
    """Read names and types of the raw columns that a bundle's model reads.

    Raises:
        CorruptDataError: The file is missing or damaged.
    """
    try:
        return pa.ipc.read_schema(pa.py_buffer((folder / COLUMNS).read_bytes()))
    except (OSError, pa.ArrowException) as error:
        raise CorruptDataError(
            f"the bundle does not say what its raw columns are ({type(error).__name__})",
            where=str(folder / COLUMNS),
            hint="run and promote another night: its export writes this file",
        ) from error


def _session(graph: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise CorruptDataError(
            f"unreadable graph: {str(error).splitlines()[0]}",
            where=str(graph),
            hint="rerun the export",
        ) from error
