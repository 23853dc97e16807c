"""Process of one side of a rehearsal: a script that the Python of any environment runs by its path.

It imports nothing from `nightbid.rehearse`, because the environment may have another version of
Nightbid. Its request and answer are JSON files, see `nightbid.rehearse.contract`; large results are
Parquet files that they name.

    python -P worker.py request.json answer.json
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

CONTRACT = 1
PR_SET_PDEATHSIG = 1
"""Option of Linux' prctl that sets the signal a process gets when its parent ends."""
DEPRECATIONS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)


class WarningCollector:
    """Collects deprecation warnings, once per library, message and line of Nightbid's code."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str, str], dict[str, str]] = {}

    def listen(self) -> None:
        """Start collecting, regardless of the filters that libraries set."""
        for category in DEPRECATIONS:
            warnings.simplefilter("always", category)
        warnings.showwarning = self._show
        for name in ("simplefilter", "filterwarnings"):
            setattr(warnings, name, _without_ignoring(getattr(warnings, name)))

    def _show(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, DEPRECATIONS):
            return
        caller = ""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            path = frame.f_code.co_filename
            if f"{os.sep}nightbid{os.sep}" in path and not path.startswith("<"):
                inside = path.rsplit(f"{os.sep}nightbid{os.sep}", 1)[1]
                if not inside.startswith("rehearse"):
                    caller = f"nightbid/{inside}:{frame.f_lineno}"
                    break
            frame = frame.f_back
        library = _library(filename)
        text = " ".join(str(message).split())[:300]
        self.found[library, text, caller] = {
            "library": library,
            "category": category.__name__,
            "text": text,
            "line": caller,
        }


def _without_ignoring(function: Callable[..., None]) -> Callable[..., None]:
    """Keep libraries from hiding deprecation warnings; their other filters stay."""

    def changed(action: str, *arguments: Any, **named: Any) -> None:
        at = 0 if function.__name__ == "simplefilter" else 1
        category = named.get("category", arguments[at] if len(arguments) > at else Warning)
        if action != "ignore" or not (category is Warning or issubclass(category, DEPRECATIONS)):
            function(action, *arguments, **named)

    return changed


def _library(filename: str) -> str:
    parts = Path(filename).parts
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1].removesuffix(".py")
    return "nightbid" if "nightbid" in parts else parts[-1] if parts else ""


def main(request_path: str, answer_path: str) -> int:
    """Execute a request, and write the answer atomically."""
    # Die with the parent process, because a rerun must be alone in this folder.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    answer: dict[str, Any] = {"contract": CONTRACT, "started": datetime.now(UTC).isoformat()}
    if request.get("contract") != CONTRACT:
        answer["error"] = f"the request has contract {request.get('contract')}, not {CONTRACT}"
        _write(answer, answer_path)
        return 1
    warned = WarningCollector()
    warned.listen()
    start = time.monotonic()
    answer["versions"] = _versions()
    steps: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "night": night, "metrics": metrics, "score": score, "records": records,
    }  # fmt: skip
    for step in request["steps"]:
        try:
            answer[step["name"]] = steps[step["step"]](step)
        except Exception as error:
            traceback.print_exc()
            answer[step["name"]] = {"error": _said(error)}
    answer["warnings"] = sorted(warned.found.values(), key=lambda warning: json.dumps(warning))
    answer["seconds"] = time.monotonic() - start
    _write(answer, answer_path)
    return 0


def night(request: dict[str, Any]) -> dict[str, Any]:
    """Run stages of a night with one seed, in a workspace of its own.

    Keys of the request: pipeline, pipelines (folder), overrides, date, run_id, stages. The answer
    has the spec as this version reads the YAML, and the manifest or error of each stage.
    """
    from nightbid.config.load import find_pipeline
    from nightbid.config.settings import Settings
    from nightbid.night.record import RunRecord
    from nightbid.night.stages import stage_named
    from nightbid.partitions import partition_of
    from nightbid.runner import run_stage
    from nightbid.storage.workspace import Workspace

    settings = Settings()
    spec = find_pipeline(request["pipeline"], settings.pipelines, tuple(request["overrides"]))
    run = RunRecord.start(
        Workspace(settings.workspace),
        spec,
        partition_of(request["date"]),
        run_id=request["run_id"],
        overrides=tuple(request["overrides"]),
        trigger="rehearsal",
    )
    answer: dict[str, Any] = {"spec": spec.model_dump(mode="json"), "stages": {}}
    # Import all modules first, so that the first stage is not charged for the imports.
    broken: dict[str, str] = {}
    for name in request["stages"]:
        try:
            stage_named(name).load()
        except Exception as error:
            traceback.print_exc()
            broken[name] = _said(error)
    for name in request["stages"]:
        sys.stdout.write(f"{datetime.now(UTC):%H:%M:%S} {request['run_id']}: {name}\n")
        sys.stdout.flush()
        try:
            if name in broken:
                raise ImportError(broken[name])
            result = run_stage(
                stage_named(name),
                spec,
                run,
                cache_folder=settings.cache,
                attempt=run.next_attempt(name),
            )
        except Exception as error:
            if not type(error).__module__.startswith("nightbid"):
                traceback.print_exc()
            answer["stages"][name] = {"error": _said(error)}
            if name in ("sample", "featurize", "train", "train_baseline", "export"):
                break
            continue
        manifest = result.manifest
        answer["stages"][name] = {
            "folder": str(run.workspace.at(result.uri)),
            "digest": manifest.digest,
            "files": {file.path: file.digest for file in manifest.files},
            "rows": manifest.rows.written,
            "metrics": manifest.metrics,
            "usage": manifest.usage.model_dump(),
            "seconds": manifest.usage.wall_seconds,
        }
    return answer


def metrics(request: dict[str, Any]) -> dict[str, Any]:
    """Compute all metrics from predictions in a Parquet file.

    Keys of the request: scores, models, columns, replicates.
    """
    import numpy as np
    import pyarrow.parquet as pq

    from nightbid.evaluation.bootstrap import FIGURES, Resampling, replicate
    from nightbid.evaluation.metrics import calibration_curve, summary
    from nightbid.evaluation.ranking_metrics import GroupedScores, grouped_auc, ndcg
    from nightbid.evaluation.scores import ScoreTable

    table = pq.read_table(request["scores"], partitioning=None)
    column = {name: table[name].to_numpy() for name in table.column_names}
    roles = request["columns"]
    users = column[roles["user"]].astype(np.int64)
    y = column[roles["label"]].astype(np.float64)
    w = column[roles["weight"]].astype(np.float64)
    figures: dict[str, Any] = {}
    for name in request["models"]:
        p = column[name].astype(np.float64)
        scored = ScoreTable.of(y, p, w)
        grouped = GroupedScores.of(users, y, p, w)
        figures[name] = dict(summary(scored, grouped_auc(grouped), ndcg(grouped, 10)))
        for at, point in enumerate(calibration_curve(scored)):
            figures[name][f"calibration curve {at + 1}"] = point["observed"]
        drawn = replicate(Resampling.of(users, request["replicates"], 0), y, w, users, {name: p})[
            name
        ]
        for figure in FIGURES:
            interval = drawn.interval(figure)
            figures[name][f"{figure} interval, low"] = interval["low"]
            figures[name][f"{figure} interval, high"] = interval["high"]
    return figures


def score(request: dict[str, Any]) -> dict[str, Any]:
    """Score raw rows with a bundle.

    Keys of the request: bundle, rows, to (path of the Parquet file to write).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from nightbid.serving.bundle import Bundle, read_columns

    folder, start = Path(request["bundle"]), time.perf_counter()
    bundle, columns = Bundle.load(folder), read_columns(folder)
    parts, names = [], [*columns.names]
    for path in sorted(Path(request["rows"]).rglob("*.parquet")):
        rows = pq.read_table(path, columns=names, partitioning=None)
        raw = pa.table({field.name: rows[field.name].cast(field.type) for field in columns})
        parts.append(pa.array(bundle.score(raw)))
    table = pa.table({"probability": pa.chunked_array(parts, pa.float64())})
    pq.write_table(table, request["to"])
    return {"to": request["to"], "rows": len(table), "seconds": time.perf_counter() - start}


def records(request: dict[str, Any]) -> dict[str, Any]:
    """Open a workspace that another version wrote: read all, write reports, roll back.

    Keys of the request: workspace (a copy, which may be changed), pipeline.
    """
    from decimal import Decimal

    from nightbid.cost.ledger import Ledger, total
    from nightbid.night.champion import ChampionPointer
    from nightbid.night.key import read_output
    from nightbid.night.record import runs_of
    from nightbid.report.write import write_report
    from nightbid.storage.workspace import Workspace

    workspace, pipeline = Workspace(request["workspace"]), request["pipeline"]
    runs = runs_of(workspace, pipeline)
    answer: dict[str, Any] = {"runs": {}, "reports": 0}
    for run in runs:
        answer["runs"][run.run_id] = {
            f"{record.stage}.{record.attempt}": [record.state, record.verdict]
            for record in run.records()
        }
        for record in run.records():
            if record.uri and workspace.at(record.uri).exists():
                read_output(workspace, record.uri)
        write_report(run)
        answer["reports"] += 1
    entries = Ledger(workspace).entries(pipeline=pipeline)
    answer["ledger_entries"] = len(entries)
    answer["ledger_total"] = str(total(entries).amount.quantize(Decimal("0.000001")))
    pointer = ChampionPointer(workspace, pipeline)
    history = pointer.history()
    answer["champions"] = [
        [champion.number, champion.bundle_digest, champion.change] for champion in history
    ]
    if len({champion.bundle_digest for champion in history}) > 1:
        back = pointer.rollback("rehearsal of an upgrade, on a copy")
        answer["rolled_back_to"] = back.bundle_digest
    return answer


def _versions() -> dict[str, str]:
    versions = {}
    for distribution in importlib.metadata.distributions():
        # Its `metadata` parses the description, too, which takes five times as long.
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
        fields = dict(
            line.split(": ", 1) for line in text.partition("\n\n")[0].splitlines() if ": " in line
        )
        if fields.get("Name"):
            versions[fields["Name"].lower().replace("_", "-")] = fields.get("Version", "")
    return versions


def _said(error: BaseException) -> str:
    message = str(error) if type(error).__module__.startswith("nightbid") else ""
    return (message or f"{type(error).__name__}: {error}")[:1000]


def _write(answer: dict[str, Any], path: str) -> None:
    scratch = Path(f"{path}.tmp")
    scratch.write_text(json.dumps(answer, indent=1, sort_keys=True), encoding="utf-8")
    scratch.rename(path)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
