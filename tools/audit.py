"""Hold every package of the lock files against the advisory databases: `make audit`.

Exceptions stand in audit.toml, each with a reason and a last day. Exit codes: 0 nothing known, 1 an
advisory or an exception that is over, 3 nothing could be checked.
"""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pin_images import unpinned

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.txt", "requirements-dev.txt")
SERVICES = ("pypi", "osv")
SECONDS = 600


@dataclass(frozen=True)
class Waiver:
    """An advisory that is accepted for a while."""

    id: str
    reason: str
    until: dt.date


def waivers(text: str) -> list[Waiver]:
    """Read audit.toml.

    Raises:
        ValueError: An entry lacks its id, reason or day.
    """
    found = []
    for each in tomllib.loads(text).get("waiver", ()):
        reason, until = str(each.get("reason", "")).strip(), each.get("until")
        if set(each) != {"id", "reason", "until"} or not reason or not isinstance(until, dt.date):
            raise ValueError(f"audit.toml: {each}: give id, reason and until (a date)")
        found.append(Waiver(str(each["id"]), reason, until))
    return found


def judge(
    answers: Sequence[Mapping[str, Any]], waived: Sequence[Waiver], today: dt.date
) -> tuple[int, list[str]]:
    """Judge what the databases answered.

    Args:
        answers: What pip-audit printed for each lock file, as JSON.
        waived: The exceptions.
        today: The day of the audit.

    Returns:
        Exit code, and the lines to print.
    """
    lines = [
        f"waiver of {each.id} ended on {each.until}: {each.reason}"
        for each in waived
        if each.until < today
    ]
    allowed = {each.id for each in waived if each.until >= today}
    checked, skipped = set(), set()
    for package in (package for answer in answers for package in answer["dependencies"]):
        name = f"{package['name']} {package.get('version', '')}".strip()
        if "skip_reason" in package:
            skipped.add(name)
            continue
        checked.add(name)
        for advisory in package["vulns"]:
            ids = {advisory["id"], *advisory.get("aliases", ())}
            if not ids & allowed:
                fixed = ", ".join(advisory.get("fix_versions", ())) or "no version yet"
                lines.append(f"{name}: {' = '.join(sorted(ids))}, fixed in {fixed}")
    if not checked:
        return 3, [*lines, "no advisory database is reachable from here: nothing was checked"]
    lines += [f"not in the database: {name}" for name in sorted(skipped)]
    lines.append(f"{len(checked)} packages checked, {len(skipped)} not in the database")
    is_bad = any(": " in line and not line.startswith("not in") for line in lines)
    return (1 if is_bad else 0), lines


def ask(lock: str, service: str) -> dict[str, Any] | None:
    """Ask a database about a lock file; None where it does not answer."""
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments
            [sys.executable, "-m", "pip_audit", "--requirement", str(ROOT / lock),
             "--require-hashes", "--disable-pip", "--progress-spinner", "off",
             "--vulnerability-service", service, "--format", "json"],
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return None
    return found


def loose_images(env: Path) -> list[str]:
    """A warning for each base image that a tag alone names.

    Args:
        env: The settings of Docker Compose, which may be missing.
    """
    text = env.read_text(encoding="utf-8") if env.exists() else ""
    return [
        f"warning: image {image} ({name}) is not pinned by digest → make pin-images"
        for name, image in unpinned(text).items()
    ]


def main() -> int:
    """Audit both lock files with the first database that knows them."""
    waived = waivers((ROOT / "audit.toml").read_text(encoding="utf-8"))
    code, lines = 3, [""]
    for service in SERVICES:
        answers = [answer for lock in LOCKS if (answer := ask(lock, service)) is not None]
        code, lines = judge(answers, waived, dt.datetime.now(dt.UTC).date())
        if code != 3:
            break
    sys.stdout.write("\n".join([*lines, *loose_images(ROOT / ".env")]) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
