"""Pin the base images: `make pin-images` writes the current digests of their tags to .env.

Docker Compose and the Dockerfiles take `BASE`, `DEBIAN` and `BEAM` from there. The script queries
the registry over HTTP, so it needs no Docker. It writes nothing unless it finds every image.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlencode

ROOT = Path(__file__).resolve().parents[1]
ARGUMENTS = {
    "BASE": ("Dockerfile", "BASE"),
    "DEBIAN": ("compose/postgres.Dockerfile", "BASE"),
    "BEAM": ("worker.Dockerfile", "BEAM"),
}
"""Variable in .env → the Dockerfile that holds its default, and the argument's name there."""
HUB = "registry-1.docker.io"
KINDS = ", ".join(
    [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ]
)
SECONDS = 30
LONGEST = 4 << 20
"""Maximum size of a manifest in bytes; registries refuse longer ones."""


class PinError(Exception):
    """Raised when an image cannot be pinned; one line says why and what to do."""


def images(env: str) -> dict[str, str]:
    """Map each variable to the image that builds use now.

    Args:
        env: Content of .env.
    """
    current = {}
    for name, (file, argument) in ARGUMENTS.items():
        setting = re.search(rf"^{name}=(.+)$", env, re.MULTILINE)
        text = (ROOT / file).read_text(encoding="utf-8")
        default = re.search(rf"^ARG {argument}=(.+)$", text, re.MULTILINE)
        assert default is not None, file
        current[name] = (setting or default)[1].strip().strip("\"'")
    return current


def unpinned(env: str) -> dict[str, str]:
    """Map each variable to its image where only a tag pins it; a tag can move to another image."""
    pinned = re.compile(r"@sha256:[0-9a-f]{64}$")
    return {name: image for name, image in images(env).items() if not pinned.search(image)}


def digest_of(image: str) -> str:
    """Query the registry for the current digest of a tag.

    Raises:
        PinError: The registry does not answer, does not know the image, or sends other bytes.
    """
    registry, name, tag = _parts(image)
    scheme = "http" if registry.partition(":")[0] in ("localhost", "127.0.0.1") else "https"
    address = f"{scheme}://{registry}/v2/{name}/manifests/{tag}"
    try:
        body, reported = _manifest(address, {})
    except urllib.error.HTTPError as error:
        if error.code != 401:
            hint = "check its name" if error.code == 404 else "try again later"
            raise PinError(f"{registry} answers {error.code} for {image} → {hint}") from None
        try:
            token = _token(error.headers.get("WWW-Authenticate", ""), image)
            body, reported = _manifest(address, {"Authorization": f"Bearer {token}"})
        except (OSError, ValueError) as second:
            raise PinError(
                f"{registry} refuses {image}: {second} → check whether the image is private"
            ) from None
    except (OSError, ValueError) as error:
        raise PinError(
            f"{registry} cannot be reached for {image}: {error} → run this on a machine that"
            " can reach it"
        ) from None
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    if reported not in ("", digest):
        raise PinError(
            f"{registry} reports {reported} for {image}, but its content has {digest} → try again"
        )
    return digest


def _parts(image: str) -> tuple[str, str, str]:
    """Split an image into registry, name and tag, as Docker does."""
    name, _, tag = image.partition("@")[0].rpartition(":")
    if not name or "/" in tag:
        name, tag = image.partition("@")[0], "latest"
    first, _, rest = name.partition("/")
    if rest and ("." in first or ":" in first or first == "localhost"):
        return first, rest, tag
    return HUB, name if rest else f"library/{name}", tag


def _manifest(address: str, headers: Mapping[str, str]) -> tuple[bytes, str]:
    request = urllib.request.Request(address, headers={"Accept": KINDS, **headers})  # noqa: S310
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
        body = answer.read(LONGEST + 1)
        if len(body) > LONGEST:
            raise ValueError(f"a manifest of more than {LONGEST:,} bytes")
        return body, answer.headers.get("Docker-Content-Digest", "")


def _token(challenge: str, image: str) -> str:
    """Fetch an anonymous token from a registry."""
    parameters = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = parameters.pop("realm", "")
    if not challenge.lower().startswith("bearer ") or not realm.startswith(("http://", "https://")):
        raise PinError(f"{image} needs a login → use a public image")
    address = f"{realm}?{urlencode(parameters)}"
    with urllib.request.urlopen(address, timeout=SECONDS) as answer:  # noqa: S310
        content = json.loads(answer.read(LONGEST))
    return str(content.get("token") or content["access_token"])


def write(path: Path, pins: Mapping[str, str]) -> None:
    """Set variables in an env file; its other lines stay. Only the owner can read the file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    other_lines = [line for line in lines if line.partition("=")[0].strip() not in pins]
    text = "\n".join([*other_lines, *(f"{name}={image}" for name, image in pins.items())]) + "\n"
    fresh = path.with_name(f"{path.name}.new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(text)
    fresh.replace(path)


def main() -> int:
    """Pin every base image."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--env", type=Path, default=ROOT / ".env")
    path = parser.parse_args().env
    env = path.read_text(encoding="utf-8") if path.exists() else ""
    pins = {}
    try:
        for name, image in images(env).items():
            pins[name] = f"{image.partition('@')[0]}@{digest_of(image)}"
            change = "unchanged" if pins[name] == image else "new"
            sys.stdout.write(f"{name}={pins[name]} ({change})\n")
        write(path, pins)
    except (PinError, OSError) as error:
        sys.stderr.write(f"nothing is pinned: {error}\n")
        return 1
    sys.stdout.write(f"wrote {path}: `make up` builds from exactly these\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
