"""Which stages run again when one module changes: through the package's own source, on a copy."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nightbid
import pytest
from nightbid.night.key import source_of
from nightbid.night.stages import NIGHT
from preloaded import COMMANDS

CODE = "\ndef _added() -> int:\n    return 1\n"
COMMENT = '\n# A comment.\n"""A string that stands alone."""\n'
CHANGES = [
    ("profile/bins.py", CODE),
    ("models/layers.py", CODE),
    ("models/architectures/deepfm.py", CODE),
    ("gates/serving.py", CODE),
    ("features/transforms/history.py", CODE),
    ("report/run_page.py", CODE),
    ("scorer/server.py", CODE),
    ("storage/workspace.py", CODE),
    ("profile/bins.py", COMMENT),
]
KEYS = """
import json, sys
from pathlib import Path
from nightbid import loaded_code
from nightbid.night import source
from nightbid.night.key import source_of
from nightbid.night.stages import NIGHT

def keys(stages=NIGHT):
    for cached in (source.modules_of, source.source_digest, source._next_to, source._parsed):
        cached.cache_clear()
    # As in a process that starts now.
    loaded_code._at_start = dict(loaded_code._files(str(source.ROOT)))
    return {stage.name: source_of(stage) for stage in stages}
"""
LOOK = f"""{KEYS}
before, found = keys(), []
for relative, code in json.load(sys.stdin):
    path = source.ROOT / relative
    text = path.read_text()
    path.write_text(text + code)
    found.append([name for name, key in keys().items() if key != before[name]])
    path.write_text(text)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_changed_module_reruns_only_the_stages_that_import_it(tmp_path: Path) -> None:
    shutil.copytree(Path(nightbid.__file__).parent, tmp_path / "nightbid")
    ran = subprocess.run(
        [sys.executable, "-c", LOOK],
        input=json.dumps(CHANGES),
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    bins, layers, deepfm, serving, history, page, scorer, workspace, comment = json.loads(
        ran.stdout
    )
    assert set(bins) >= {"sample", "gate_raw", "featurize", "gate_features"}
    assert "gate_serving" not in bins
    scoring = {"train", "train_baseline", "evaluate", "replay", "export"}
    assert set(layers) == set(deepfm) == scoring
    assert serving == ["gate_serving"]
    assert "featurize" in history
    assert not {"sample", "gate_raw", "gate_serving", "promote"} & set(history)
    assert page == scorer == workspace == comment == []


CACHED = f"""{KEYS}
def read():
    source._known.cache_clear()
    return keys([stage for stage in NIGHT if stage.name == "gate_serving"])

found = [read()]
(kept,) = (source.ROOT / "__pycache__").glob("parsed.*.json")
found.append(read())
for damage in ("{{", '{{"0": ["a"]}}', "[]"):
    kept.write_text(damage)
    found.append(read())
path = source.ROOT / "gates" / "serving.py"
path.write_text(path.read_text() + sys.argv[1])
found.append(read())
print(json.dumps(found))
"""


@pytest.mark.slow
def test_parsed_imports_are_cached_and_a_damaged_cache_is_ignored(
    tmp_path: Path,
) -> None:
    package = tmp_path / "nightbid"
    shutil.copytree(
        Path(nightbid.__file__).parent, package, ignore=shutil.ignore_patterns("parsed.*")
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    ran = subprocess.run(
        [sys.executable, "-c", CACHED, CODE],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    first, *same, changed = json.loads(ran.stdout)
    assert first
    assert same == [first] * 4
    assert changed != first


PARSED_ONCE = """
import ast
from nightbid.night import source
from nightbid.night.key import source_of
from nightbid.night.stages import NIGHT

source.parse_all()
ast.parse = None
print([source_of(stage) for stage in NIGHT])
"""


@pytest.mark.slow
def test_forks_parse_no_code_where_no_cache_can_be_written(tmp_path: Path) -> None:
    """As in a container, whose code is mounted for reading only."""
    shutil.copytree(
        Path(nightbid.__file__).parent,
        tmp_path / "nightbid",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    ran = subprocess.run(
        [sys.executable, "-c", PARSED_ONCE],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == f"{[source_of(stage) for stage in NIGHT]}\n"


EDITED = """
import sys, time
from pathlib import Path
from nightbid.night import source
import nightbid.features.functions

path = source.ROOT / "features" / "functions.py"
if sys.argv[1] == "before":
    path.write_text(path.read_text() + "\\ndef _added() -> int:\\n    return 1\\n")
    source.code_of(["nightbid.featurize.stage:run"])
else:
    loaded = frozenset(sys.modules)
    source.code_of(["nightbid.featurize.stage:run"])
    source.check_late_imports(["nightbid.featurize.stage:run"], loaded)
    path = source.ROOT / "featurize" / "stage.py"
    path.write_text(path.read_text() + "\\n# More.\\n")
    import nightbid.featurize.stage
    source.check_late_imports(["nightbid.featurize.stage:run"], loaded)
"""


@pytest.mark.parametrize("when", ["before", "while"])
def test_code_that_changed_after_its_import_is_refused(tmp_path: Path, when: str) -> None:
    """A person edits a module while a run of minutes goes on."""
    shutil.copytree(Path(nightbid.__file__).parent, tmp_path / "nightbid")
    program, python = tmp_path / "edited.py", tmp_path / "python"
    program.write_text(EDITED)
    COMMANDS.shim(python, "python", own_code=True)
    ran = subprocess.run(
        [python, program, when],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    file, since = {
        "before": ("features/functions.py", "this process started"),
        "while": ("featurize/stage.py", "the stage was planned"),
    }[when]
    assert f"the code has changed since {since}: {file} → run it again" in ran.stderr
