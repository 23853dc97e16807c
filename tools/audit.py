"""Check every package of the lock files against the advisory databases: `make audit`.

audit.toml lists the exceptions, each with a reason and a last day. Exit codes: 0 no known advisory,
1 an advisory or an expired exception, 3 nothing could be checked.
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
    exceptions = []
    for entry in tomllib.loads(text).get("waiver", ()):
        reason, until = str(entry.get("reason", "")).strip(), entry.get("until")
        if set(entry) != {"id", "reason", "until"} or not reason or not isinstance(until, dt.date):
            raise ValueError(f"audit.toml: {entry}: set id, reason and until (a date)")
        exceptions.append(Waiver(str(entry["id"]), reason, until))
    return exceptions


def judge(
    answers: Sequence[Mapping[str, Any]], waived: Sequence[Waiver], today: dt.date
) -> tuple[int, list[str]]:
    """Evaluate the answers of the databases.

    Args:
        answers: What pip-audit printed for each lock file, as JSON.
        waived: The exceptions.
        today: The day of the audit.

    Returns:
        Exit code, and the lines to print.
    """
    lines = [
        f"waiver of {waiver.id} ended on {waiver.until}: {waiver.reason}"
        for waiver in waived
        if waiver.until < today
    ]
    allowed = {waiver.id for waiver in waived if waiver.until >= today}
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
    """Query a database about a lock file; return None if it does not answer."""
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments
            [sys.executable, "-m", "pip_audit", "--requirement", str(ROOT / lock),
             "--require-hashes", "--disable-pip", "--progress-spinner", "off",
             "--vulnerability-service", service, "--format", "json"],
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )  # fmt: skip
        report: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return None
    return report


def loose_images(env: Path) -> list[str]:
    """Return a warning for each base image that is pinned only by a tag.

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
