"""The images contain files that exist and no secrets of an installation."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import IO

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def admitted(root: Path) -> list[Path]:
    """Return the files of a checkout that `docker build` sends to the daemon."""
    lines = (root / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*", "whatever is not named stays outside"
    return [
        path
        for top in root.iterdir()
        if is_sent(top.name, rules)
        for path in ([top] if top.is_file() else top.rglob("*"))
        if path.is_file() and is_sent(path.relative_to(root).as_posix(), rules)
    ]


def is_sent(name: str, rules: list[str]) -> bool:
    """Decide by the last rule that matches a file or one of its folders."""
    parts = name.split("/")
    above = ["/".join(parts[: at + 1]) for at in range(len(parts))]
    sent = True
    for rule in rules:
        pattern = rule.removeprefix("!")
        anywhere = pattern.removeprefix("**/")
        fits = (
            any(fnmatchcase(part, anywhere) for part in parts)
            if anywhere != pattern
            else any(
                path.count("/") == pattern.count("/") and fnmatchcase(path, pattern)
                for path in above
            )
        )
        if fits:
            sent = rule.startswith("!")
    return sent


@pytest.mark.parametrize("name", ["Dockerfile", "worker.Dockerfile", "compose/postgres.Dockerfile"])
def test_files_that_images_copy_exist_and_pass_dockerignore(name: str) -> None:
    copied = re.findall(r"^COPY (?!--from)(?:--\S+ )?(\S+) ", (ROOT / name).read_text(), re.M)
    sent = {path.relative_to(ROOT).parts[0] for path in admitted(ROOT)}
    for source in copied:
        assert (ROOT / source).exists(), f"{name} copies {source}"
        assert Path(source).parts[0] in sent, (
            f"{name} copies {source}, which .dockerignore keeps out"
        )


def test_services_have_limits_and_images_do_not_run_as_root() -> None:
    stack = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
    for name, service in stack["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["mem_limit"], name
        assert service["pids_limit"], name
        assert service["logging"]["options"]["max-size"], name
    for name in ("Dockerfile", "worker.Dockerfile", "compose/postgres.Dockerfile"):
        text = (ROOT / name).read_text()
        last = re.findall(r"^USER (\S+)$", text, re.M)[-1]
        if given := re.fullmatch(r"\$\{(\w+)\}", last):
            last = re.findall(rf"^ARG {given[1]}=(\S+)$", text, re.M)[-1]
        assert last not in ("root", "0"), name


SECRETS = {
    ".env": "ADMIN_PASSWORD=planted-",
    "key.json": '{"private_key": "planted-"}',
    ".nightbid/airflow.cfg": "fernet_key = planted-",
    "include/.env": "NIGHTBID_LEDGER=planted-",
    "include/nightbid/.env.production": "planted-",
    "include/pipelines/service-account.json": '{"private_key": "planted-"}',
    "plugins/tls.key": "planted-",
    "plugins/nightbid_airflow/client.pem": "planted-",
    "dags/.netrc": "password planted-",
    "dags/.ssh/id_ed25519": "planted-",
    "compose/.pgpass": "db:5432:*:*:planted-",
    "compose/store.p12": "planted-",
    "compose/postgres.log": "planted-",
    "compose/airflow.db": "planted-",
    "include/nightbid/__pycache__/settings.cpython-311.pyc": "planted-",
}
"""Places where people leave secrets: next to the code, and in folders that the image copies."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make a checkout that contains the secrets of an installation, to start a build in."""
    for path in admitted(ROOT):
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for name in (".dockerignore", "Dockerfile", "worker.Dockerfile"):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run(["bash", "compose/env.sh"], cwd=tmp_path, check=True, capture_output=True)
    with (tmp_path / ".env").open("a") as stream:
        stream.write(SECRETS[".env"])
    for name, text in SECRETS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(text)
    return tmp_path


def secrets_of(checkout: Path) -> list[bytes]:
    """Return every secret of the checkout."""
    lines = (checkout / ".env").read_text().splitlines()
    secrets = [value.encode() for _, _, value in (line.partition("=") for line in lines) if value]
    assert len(secrets) == 6
    return [*secrets, b"planted-"]


def test_docker_build_context_contains_no_secrets(checkout: Path) -> None:
    sent = admitted(checkout)
    assert {path.relative_to(checkout) for path in sent} == {
        path.relative_to(ROOT) for path in admitted(ROOT)
    }
    for path in sent:
        content = path.read_bytes()
        assert not any(secret in content for secret in secrets_of(checkout)), path


TAG, WORKER, BOOT = (f"nightbid-{name}:test" for name in ("secrets", "secrets-worker", "boot"))
Docker = Callable[..., bytes]


@pytest.fixture
def containers() -> ModuleType:
    """Import the module that gives `make compose-test` its daemon and its base images."""
    path = ROOT / "tests/compose/containers.py"
    spec = importlib.util.spec_from_file_location("containers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def docker(containers: ModuleType) -> Iterator[Docker]:
    """Connect to the Docker daemon that runs, or start one."""

    def call(*command: str) -> bytes:
        environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
        done = subprocess.run(["docker", *command], env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(containers.daemon())
        except containers.Unavailable as error:
            pytest.skip(str(error))
        yield call
        for tag in (WORKER, TAG, BOOT):
            subprocess.run(["docker", "rmi", "--force", tag], capture_output=True, check=False)


class Searched:
    """A stream that fails on a secret in the bytes that are read from it."""

    def __init__(self, stream: IO[bytes], secrets: list[bytes], name: str) -> None:
        self._stream, self._secrets, self._name = stream, secrets, name
        self._tail = b""

    def read(self, size: int = 1 << 20) -> bytes:
        data = self._stream.read(size)
        window = self._tail + data
        assert not any(secret in window for secret in self._secrets), self._name
        self._tail = window[-256:]
        return data


def files_of(tag: str, secrets: list[bytes]) -> set[str]:
    """Return the files of all layers of an image, after checking each byte for secrets."""
    files = set()
    with (
        subprocess.Popen(["docker", "save", tag], stdout=subprocess.PIPE) as saving,
        tarfile.open(fileobj=saving.stdout, mode="r|", bufsize=1 << 20) as image,
    ):
        for part in image:
            stream = image.extractfile(part) if part.isfile() else None
            if stream is None:
                continue
            searched = Searched(stream, secrets, part.name)
            with (
                contextlib.suppress(tarfile.ReadError),
                tarfile.open(fileobj=searched, mode="r|", bufsize=1 << 20) as layer,  # type: ignore[call-overload]
            ):
                files |= {member.name for member in layer if member.isfile()}
            while searched.read():
                pass
    assert saving.returncode == 0
    return files


def of_the_code(files: set[str]) -> set[str]:
    """Return the files below /app by their paths in a checkout."""
    return {name.removeprefix("app/") for name in files if name.startswith("app/")}


@pytest.mark.matrix
def test_layers_of_the_copied_code_contain_no_secrets(checkout: Path, docker: Docker) -> None:
    # Only the files that the images copy, on an empty base.
    copies = [
        re.sub(r"--chown=\S+ ", "", line)
        for line in (checkout / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ")
    ]
    assert len(copies) == 5
    (checkout / "Dockerfile").write_text("\n".join(["FROM scratch", *copies]))
    docker("build", "--quiet", "--tag", TAG, str(checkout))
    files = files_of(TAG, secrets_of(checkout))
    assert of_the_code(files) == {path.relative_to(ROOT).as_posix() for path in admitted(ROOT)}


@pytest.mark.matrix
@pytest.mark.timeout(3600)
def test_layers_of_the_complete_images_contain_no_secrets(
    checkout: Path, containers: ModuleType, docker: Docker
) -> None:
    try:
        base = containers.bases()["python"]
    except containers.Unavailable as error:
        pytest.skip(str(error))
    proxies = [part for name in containers.proxies() for part in ("--build-arg", name)]
    docker("build", "--quiet", "--tag", TAG, *proxies, "--build-arg", f"BASE={base}",
           str(checkout))  # fmt: skip
    # Beam's boot program comes from an image of Beam; a placeholder replaces it here.
    boot = checkout / "boot.Dockerfile"
    boot.write_text("FROM scratch\nCOPY requirements.txt /opt/apache/beam/boot\n")
    docker("build", "--quiet", "--tag", BOOT, "--file", str(boot), str(checkout))
    docker("build", "--quiet", "--tag", WORKER, "--file", str(checkout / "worker.Dockerfile"),
           "--build-arg", f"APP={TAG}", "--build-arg", f"BEAM={BOOT}", str(checkout))  # fmt: skip
    # The worker has the layers of the image and its own layers.
    files = files_of(WORKER, secrets_of(checkout))
    assert "opt/apache/beam/boot" in files
    assert of_the_code(files) == {path.relative_to(ROOT).as_posix() for path in admitted(ROOT)}
    history = docker("history", "--no-trunc", WORKER) + docker("image", "inspect", WORKER)
    assert not any(secret in history for secret in secrets_of(checkout))
