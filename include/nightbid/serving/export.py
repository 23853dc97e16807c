"""Export: write model and features as a bundle, and compare it with the trained model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nightbid.counts import counted
from nightbid.differences import with_interval
from nightbid.errors import CorruptDataError
from nightbid.models.folder import SLOTS
from nightbid.models.layout import Layout
from nightbid.models.predict import FittedModel, load_model
from nightbid.models.registry import find
from nightbid.night.manifest import RowCounts
from nightbid.night.task import Outcome, StageTask
from nightbid.scorer.rows import parse
from nightbid.serving.bundle import JUDGED, Bundle, BundleCard, read_columns, write_columns
from nightbid.serving.json_values import to_json
from nightbid.serving.refitted import LEAST, is_automatic, refits, why_judged
from nightbid.serving.skew import mismatches, paired_rows
from nightbid.storage.verify import link_or_copy

ROWS_PER_SPLIT = 2000
"""Number of rows per split that are compared for skew and parity."""
ASKED = 500
"""Number of log rows that are also encoded as an HTTP request."""


def run(task: StageTask) -> Outcome:
    """Write the bundle, and measure how it differs from the trained and evaluated model.

    Raises:
        NightbidError: An input is damaged, or the rows of sample and featurize differ.
    """
    featurized, training = task.inputs["featurize"], task.inputs["train"]
    task.progress(0.0, "loading the model")
    model = load_model(training.path / "model")
    # Finished files never change, so they are linked: the history, the largest, is not copied.
    shutil.copytree(
        featurized.path / "fitted",
        task.output / "fitted",
        copy_function=lambda source, target: link_or_copy(Path(source), Path(target)),
    )
    parameters = int(training.manifest.metrics["parameters"])
    again: Mapping[str, Any] = {}
    if refits(task.spec):
        refitted, again = _refit(task, model)
        if refitted is not None:
            # Keep the judged model: the next night's candidate is compared with it.
            write_graph(model, task.output / JUDGED)
            model, parameters = refitted, int(again["parameters"])
    if not (task.output / "model").exists():
        # The next night continues from the training's output, so the bundle omits its state.
        spare = () if task.spec.train.starts_warm else (SLOTS,)
        shutil.copytree(
            training.path / "model", task.output / "model", ignore=shutil.ignore_patterns(*spare)
        )
    task.progress(0.2, "writing the graphs")
    volatile = _write_graphs(model, task.output)
    card = BundleCard(
        pipeline=task.spec.pipeline,
        night=task.night.date.isoformat(),
        architecture=model.card.architecture,
        engine="onnxruntime",
        parameters=parameters,
        inputs=tuple(model_input.name for model_input in Layout(model.card.features).served),
        output="probability" if model.card.value is None else "value",
    )
    text = card.model_dump_json(indent=1, exclude_defaults=True)
    (task.output / "bundle.json").write_text(text)
    task.progress(0.7, "comparing with the trained model")
    bundle = Bundle.load(task.output)
    raw, rows = paired_rows(
        task.inputs["sample"].path,
        featurized.path,
        Layout(model.card.features),
        ROWS_PER_SPLIT,
    )
    write_columns(task.output, pa.schema([raw.schema.field(name) for name in bundle.columns]))
    saved_model = task.output / "saved_model"
    if saved_model.exists():
        from nightbid.serving.warm_up import SIZES, write_warm_up

        write_warm_up(saved_model, bundle.feed(rows.slice(0, max(SIZES))))
    ask_over_http(bundle, raw.slice(0, ASKED), read_columns(task.output))
    served = {"": bundle.predict(rows), **bundle.predict_tasks(rows)}
    trained = {"": model.predict(rows), **model.predict_tasks(rows)}
    units = {
        # Compare values relative to their size, but probabilities absolutely.
        name: 1.0 if model.card.value is None else np.maximum(predictions, predictions.mean())
        for name, predictions in trained.items()
    }
    parity = max(
        float(np.max(np.abs(served[name] - predictions) / units[name], initial=0.0))
        for name, predictions in trained.items()
    )
    task.progress(0.85, "looking up the same rows as at serving")
    skew = mismatches(raw, rows, bundle.fitted)
    wrong = sum(skew.values())
    size = sum(path.stat().st_size for path in task.output.rglob("*") if path.is_file())
    return Outcome(
        rows=RowCounts(read=len(rows), written=len(rows)),
        metrics={
            "parity_max_difference": parity,
            "skew_rows": len(rows),
            "skew_mismatches": wrong,
            "skew_by_input": {name: count for name, count in skew.items() if count},
            "bytes": size,
            **({"refit": again} if again else {}),
        },
        summary=f"{size / 1e6:.1f} MB, exported and reference model differ by {parity:.1e},"
        f" skew in {counted(wrong, 'cell')} of {counted(len(rows), 'row')}" + _refitted(again),
        volatile=volatile,
    )


def _refit(task: StageTask, judged: FittedModel) -> tuple[FittedModel | None, dict[str, Any]]:
    """Refit the model on all days, into `model/`, and compare it with the judged one.

    Returns:
        The refitted model, or None if the judged one serves instead; and figures of the refit.

    Raises:
        CannotCompare: `train.refit` is true, and too few rows are held out for a comparison.
    """
    from nightbid.training.refit import CannotCompare, refit

    if not is_automatic(task.spec):
        refitted = refit(task, judged, task.output / "model")
        return refitted.model, dict(refitted.metrics)
    try:
        refitted = refit(task, judged, task.output / "model", LEAST)
    except CannotCompare as error:
        why = f"the refitted model cannot be compared: {error.what}"
        return None, {"automatic": True, "fallback": why}
    figures = {**refitted.metrics, "automatic": True}
    if why := why_judged(figures, task.spec.gates, task.night.date):
        shutil.rmtree(task.output / "model")
        return None, {**figures, "fallback": why}
    return refitted.model, figures


def _refitted(again: Mapping[str, Any]) -> str:
    if not again:
        return ""
    if why := again.get("fallback"):
        return f"; the judged model serves: {why}"
    young = f", {again['young_rows']:,} of them young" if "young_rows" in again else ""
    return (
        f"; refitted on {counted(again['rows'], 'row')} of all days{young}, log loss"
        f" {with_interval(again['difference'], '.5f')} on"
        f" {counted(again['held_rows'], 'held-out row')}"
    )


def ask_over_http(bundle: Bundle, raw: pa.Table, columns: pa.Schema) -> None:
    """Score rows of the logs from a request's JSON, and compare with the bundle's own scores.

    Args:
        bundle: Exported bundle.
        raw: Rows of the logs.
        columns: Names and types of the raw columns that the scorer reads.

    Raises:
        CorruptDataError: A row cannot be encoded as JSON, is rejected, or gets another score.
    """
    sent = raw.select(columns.names)
    try:
        read = parse(to_json(sent), columns)
    except (CorruptDataError, TypeError) as error:
        raise CorruptDataError(
            f"the scorer cannot read rows of the logs: {error}",
            where="request made from the logs",
            hint="give the column a type that JSON can carry, or leave its feature out",
        ) from error
    differ = bundle.score(sent) != bundle.score(read)
    if differ.any():
        raise CorruptDataError(
            f"the scorer answers {int(differ.sum()):,} of {counted(len(raw), 'row')} of the logs"
            " differently from the bundle",
            where="request made from the logs",
            hint="a column loses something on its way through JSON: compare the types of"
            " `GET /columns` with the logs",
        )


def _write_graphs(model: FittedModel, folder: Path) -> tuple[str, ...]:
    """Write the graphs of an engine; return the paths whose bytes are not reproducible."""
    write_graph(model, folder / "model.onnx")
    if find(model.card.architecture).engine != "tensorflow":
        return ()
    from nightbid.models.network import Network
    from nightbid.serving.graph import write_saved_model

    assert isinstance(model, Network)
    write_saved_model(model, folder / "saved_model")
    return ("saved_model/",)


def write_graph(model: FittedModel, path: Path) -> None:
    """Write a fitted model of any engine as ONNX."""
    engine = find(model.card.architecture).engine
    if engine == "ensemble":
        from nightbid.models.ensemble import Ensemble
        from nightbid.serving.ensemble_graph import write_ensemble_onnx

        assert isinstance(model, Ensemble)
        write_ensemble_onnx(model, path, write_graph)
    elif engine == "lightgbm":
        from nightbid.models.trees import Trees
        from nightbid.serving.tree_graph import write_tree_onnx

        assert isinstance(model, Trees)
        write_tree_onnx(model, path)
    else:
        from nightbid.models.network import Network
        from nightbid.serving.graph import write_onnx

        assert isinstance(model, Network)
        write_onnx(model, path)
