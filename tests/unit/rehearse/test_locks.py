"""Lock files are read, compared, mixed, and checked against their input files."""

from __future__ import annotations

from pathlib import Path

import pytest
from nightbid.errors import ConfigError, ServiceError, StageError
from nightbid.rehearse.environments import Environments
from nightbid.rehearse.locks import Lock, check_lock

ROOT = Path(__file__).resolve().parents[3]
LOCK = """\
# resolved by a program
numpy==2.4.1
    # via -r requirements.in
Typing_Extensions==4.15.0 ; python_version >= "3.9"
tomli==2.0 ; python_version < "3.9"
onnxruntime==1.23.0 \\
    --hash=sha256:00
"""


def test_changes_between_two_locks_can_be_applied_one_by_one() -> None:
    present = Lock.parse(LOCK, "requirements.txt")
    candidate = Lock.parse(
        "numpy==2.3.0\ntyping-extensions==4.15.0\nplanted @ file:///tmp/p.whl\n", "candidate.txt"
    )
    changes = present.changes(candidate)
    assert [str(change) for change in changes] == [
        "numpy 2.4.1 → 2.3.0",
        "onnxruntime 1.23.0 → not installed",
        "planted not installed → p.whl",
    ]
    mixed = present.with_changes(changes[1:])
    assert mixed.text() == (
        "numpy==2.4.1\nplanted @ file:///tmp/p.whl\ntyping-extensions==4.15.0\n"
    )
    assert present.with_changes(changes).digest == candidate.digest != mixed.digest


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("numpy>=2", "'numpy>=2' pins no version"),
        ("numpy==2.*", "'numpy==2.*' pins no version"),
        ("numpy==2.4.1\n-e .", "'-e .' adds packages that this file does not pin"),
        ("numpy==2.4.1\n--requirement other.txt", "'--requirement other.txt' adds packages"),
        ("numpy==2.4.1\n<<<<<<< HEAD", "'<<<<<<< HEAD' is not a pinned requirement"),
        ("numpy==2.4.1\nnumpy==2.4.2", "numpy is pinned twice: ==2.4.1 and ==2.4.2"),
        ("# nothing", "it pins no package"),
    ],
)
def test_lock_lines_that_pin_no_version_are_rejected(line: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Lock.parse(line, "candidate.txt")
    assert str(refused.value).startswith("candidate.txt")
    assert message in str(refused.value)


def test_a_lock_from_a_windows_editor_is_read(tmp_path: Path) -> None:
    path = tmp_path / "candidate.txt"
    path.write_bytes(b"\xef\xbb\xbf" + LOCK.replace("\n", "\r\n").encode())
    assert Lock.read(path) == Lock.parse(LOCK, "")


def test_an_index_out_of_reach_is_no_fault_of_the_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = Lock({"nightbid-no-such-package": "==1.0"})
    environments = Environments(tmp_path / "environments")
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    with pytest.raises(ServiceError, match="it resumes"):
        environments.make(candidate)
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("UV_DEFAULT_INDEX", index.as_uri())
    with pytest.raises(StageError, match="cannot install it"):
        environments.make(candidate)
    assert not list((tmp_path / "environments").glob("*/bin"))


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_the_lock_files_match_their_input_files(name: str) -> None:
    faults = check_lock(ROOT / f"{name}.in", ROOT / f"{name}.txt")
    assert not faults, f"run `make lock`: {faults}"


def test_mismatches_between_a_lock_and_its_input_are_reported(tmp_path: Path) -> None:
    requirements, lock = tmp_path / "requirements.in", tmp_path / "requirements.txt"
    requirements.write_text("numpy>=2.5  # newer\nscipy\n")
    lock.write_text(
        "numpy==2.4.1\n    # via\n    #   -r requirements.in\n    #   pandas\n"
        "keras==3.0.0\n    # via -r requirements.in\n"
    )
    assert check_lock(requirements, lock) == [
        "requirements.in requires numpy>=2.5, requirements.txt pins numpy==2.4.1",
        "requirements.in requires scipy, which requirements.txt does not pin",
        "requirements.txt pins keras for requirements.in, which does not require it",
    ]
