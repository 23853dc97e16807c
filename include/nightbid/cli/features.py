"""`nightbid features`: describe each feature of a pipeline and its fitted statistics."""

from __future__ import annotations

from rich.table import Column, Table
from rich.text import Text
from upath import UPath

from nightbid.config.pipeline import PipelineSpec
from nightbid.features.describe import FILE, Documentation
from nightbid.features.fitted import Definition, FittedFeatures
from nightbid.night.record import runs_of
from nightbid.storage.workspace import Workspace, read_manifest


def documented(spec: PipelineSpec, workspace: Workspace) -> tuple[Documentation, str]:
    """Describe the features of a pipeline according to its current YAML.

    Returns:
        The documentation of the features, with the fitted statistics of the newest featurized night
        for those that have not changed since; and the run id of that night, empty if there is none.
    """
    now = Definition.of(spec)
    declared = FittedFeatures(now, {}).documentation
    for run in reversed(runs_of(workspace, spec.pipeline)):
        record = run.stage("featurize")
        folder = workspace.at(record.uri) if record and record.uri else None
        if folder is not None and (folder / "fitted" / FILE).exists():
            return _told(declared, now, folder), run.run_id
    return declared, ""


def _told(documentation: Documentation, now: Definition, folder: UPath) -> Documentation:
    then = Definition.load(folder / "fitted")
    rates = read_manifest(folder).metrics["oov_rate"]
    known = Documentation.load(folder / "fitted").with_oov(rates)
    fitted = {feature.name: feature for feature in known.features}
    return Documentation(
        features=tuple(
            fitted[feature.name] if now.is_as(then, feature.name) else feature
            for feature in documentation.features
        )
    )


def features_table(documentation: Documentation) -> Table:
    """Make a table of two columns, so that nothing is cut in a narrow terminal."""
    table = Table(
        Column("feature", overflow="fold"), Column("what it is", overflow="fold"), show_lines=True
    )
    for feature in documentation.features:
        lines = [
            ("reads", ", ".join(feature.reads)),
            (feature.transform, feature.makes),
            *(("model input", line) for line in feature.inputs),
            *([("training only", "fed a constant at serving")] if feature.training_only else []),
            *([("looks back", feature.looks_back)] if feature.looks_back else []),
            *([("learned", feature.learned)] if feature.learned else []),
        ]
        description = Text("\n").join(
            Text.assemble((f"{key}: ", "dim"), text) for key, text in lines
        )
        table.add_row(feature.name, description)
    return table


def features_markdown(pipeline: str, documentation: Documentation, run_id: str) -> str:
    """Write the documentation of the features as a Markdown page."""
    lines = [
        f"# Features of {pipeline}",
        "",
        "| feature | reads | transform | model inputs | looks back | learned |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for feature in documentation.features:
        reads = ", ".join(f"`{name}`" for name in feature.reads)
        transform = f"{feature.transform}: {feature.makes}"
        inputs = "; ".join(feature.inputs) + ("; training only" if feature.training_only else "")
        cells = (f"`{feature.name}`", reads, transform, inputs, feature.looks_back, feature.learned)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += ["", origin(pipeline, run_id)]
    return "\n".join(lines)


def origin(pipeline: str, run_id: str) -> str:
    """Say which run the fitted statistics come from."""
    if run_id:
        return (
            f"fitted statistics come from run {run_id}, for features whose definition is unchanged"
        )
    return f"no fitted statistics yet: no night of {pipeline} has been featurized"
