"""Keep the workspace of a release: `make release-fixture VERSION=0.2.0`.

The script runs two small nights, removes what `nightbid data prune` would remove, and writes the
workspace as one archive in tests/releases. Tests open the archives of all releases with the current
code, so that an upgrade cannot break an existing installation.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PIPELINE = """\
pipeline: small
source: {kind: simulator, rows_per_day: 3000, users: 500, ads: 500}
columns: {position: position}
window: {train_days: 2}
features:
  ad_id: {min_count: 5}
  device_type: vocabulary
  interests: {transform: bag}
  ad_age_days: {transform: numeric, log1p: true}
  user_ctr: {transform: target_rate, columns: [user_id]}
  position: {transform: identity, size: 16, training_only: true}
model: {embedding_dim: 4}
train: {epochs: 1}
evaluate: {slices: [device_type], bootstrap: 50, margin_ne: 1}
gates:
  model:
    entropy_loss: {}
    auc: {warn: [0.5, null]}
    positives: {warn: [10, null]}
    calibration: {warn: [0.5, 2]}
    ece: {warn: [null, 0.5]}
    normalized_entropy_vs_constant: {warn: [null, 0]}
    normalized_entropy_vs_baseline: {warn: [null, 0.02]}
  serving:
    p99_ms: {warn: [null, 50]}
    requests_per_second_per_core: {warn: [10, null]}
"""
NIGHTS = ("2026-01-04", "2026-01-05")


def main(version: str) -> None:
    """Write tests/releases/<version>.tar.xz.

    Raises:
        SystemExit: The argument is not a version.
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise SystemExit(f"release_fixture: {version!r} is not a version → VERSION=1.2.3")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pipelines").mkdir()
        (folder / "pipelines" / "small.yaml").write_text(PIPELINE)
        environment = {
            **os.environ,
            "NIGHTBID_WORKSPACE": str(folder / "workspace"),
            "NIGHTBID_PIPELINES": str(folder / "pipelines"),
            "NIGHTBID_CACHE": str(folder / "cache"),
            "NIGHTBID_TRACKING": "",
        }
        for night in NIGHTS:
            command = [sys.executable, "-m", "nightbid", "run", "small", "--date", night]
            subprocess.run(command, env=environment, check=True)  # noqa: S603 (our own)
        stages = folder / "workspace" / "stages" / "small"
        for stage in stages.iterdir():
            outputs = sorted(stage.iterdir(), key=lambda output: output.stat().st_mtime)
            if stage.name != "export":  # an earlier champion's bundle stays
                for old in outputs[:-1]:
                    shutil.rmtree(old)
        shutil.rmtree(folder / "workspace" / "days", ignore_errors=True)
        _pack(folder, ROOT / "tests" / "releases" / f"{version}.tar.xz")


def _pack(folder: Path, target: Path) -> None:
    def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    target.parent.mkdir(exist_ok=True)
    with tarfile.open(target, "w:xz", preset=9) as archive:
        for part in ("pipelines", "workspace"):
            archive.add(folder / part, part, filter=anonymous)
    sys.stdout.write(f"{target}: {target.stat().st_size / 1e6:.1f} MB\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
