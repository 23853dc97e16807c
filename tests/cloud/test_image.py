"""What goes into the images: files that exist, and nothing that an installation keeps to itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def admitted(root: Path) -> list[Path]:
    """Files of a checkout that `docker build` sends to the daemon."""
    rules = (root / ".dockerignore").read_text().split()
    assert rules[0] == "*", "whatever is not named stays outside"
    assert rules[-1] == "**/__pycache__"
    names = [rule.removeprefix("!") for rule in rules[1:-1]]
    assert all(rule.startswith("!") for rule in rules[1:-1])
    found = [
        path
        for name in names
        for path in ([root / name] if (root / name).is_file() else (root / name).rglob("*"))
    ]
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


@pytest.mark.parametrize("name", ["Dockerfile", "worker.Dockerfile", "compose/postgres.Dockerfile"])
def test_every_file_that_an_image_copies_exists_and_is_sent(name: str) -> None:
    copied = re.findall(r"^COPY (?!--from)(?:--\S+ )?(\S+) ", (ROOT / name).read_text(), re.M)
    sent = {path.relative_to(ROOT).parts[0] for path in admitted(ROOT)}
    for source in copied:
        assert (ROOT / source).exists(), f"{name} copies {source}"
        assert Path(source).parts[0] in sent, (
            f"{name} copies {source}, which .dockerignore keeps out"
        )


def test_no_secret_of_an_installation_is_sent(tmp_path: Path) -> None:
    for path in admitted(ROOT):
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copy(ROOT / ".dockerignore", tmp_path)
    subprocess.run(["bash", "compose/env.sh"], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "key.json").write_text('{"private_key": "planted-key-91d0"}')
    (tmp_path / ".nightbid").mkdir()
    (tmp_path / ".nightbid" / "airflow.cfg").write_text("fernet_key = planted-fernet-3a7c")
    lines = (tmp_path / ".env").read_text().splitlines()
    secrets = [value.encode() for _, _, value in (line.partition("=") for line in lines) if value]
    assert len(secrets) == 5
    for path in admitted(tmp_path):
        content = path.read_bytes()
        assert not any(each in content for each in (*secrets, b"planted-")), path
