"""Take the documentation's pictures: `make ui` in one shell, `make screenshots` in another.

The pictures show pages of the running Airflow, so its workspace needs what they show: two nights
that were promoted, and, started in Airflow, a sweep and a night that waits for its approval. A
picture whose page does not exist yet is left out, with the reason; the old file stays.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from nightbid.config.load import find_pipeline
from nightbid.config.settings import Settings
from nightbid.errors import ConfigError, NightbidError
from nightbid.gates.propose import propose
from nightbid.night.record import runs_of, safe_run_id
from nightbid.report.proposal_page import proposal_page
from nightbid.storage.workspace import Workspace
from nightbid_airflow.embedded.client import AirflowClient
from nightbid_airflow.embedded.home import USER, Home, address
from PIL import Image
from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
FRAME_HEIGHT = 624
"""Pixels in which Airflow's navigation fits."""
COLORS = 64
BOTTOM = "document.querySelector('main').getBoundingClientRect().bottom + scrollY - 24"


@dataclass(frozen=True)
class Picture:
    """A picture of a page, or of a part of it.

    Attributes:
        name: Name of the file in docs/images, without its suffix.
        path: Path of the page, or an address of its own.
        ready: Selector of an element that exists once the page is drawn.
        height: Largest height, in pixels; a framed or shorter page is pictured up to its end.
        width: Width of the window, in pixels.
        framed: Whether Airflow's page around ours is in the picture.
        first: Selector of the first element in the picture; empty: from the top.
        last: Selector of the first element below the picture; empty: to the end of the page.
        click: Name of a button to press first.
        dark: Whether the picture is in dark mode.
    """

    name: str
    path: str
    ready: str = "main h1"
    height: int = 2600
    width: int = 1280
    framed: bool = False
    first: str = ""
    last: str = ""
    click: str = ""
    dark: bool = False


def pictures(
    pipeline: str, settings: Settings, client: AirflowClient, folder: Path
) -> Iterator[Picture | str]:
    """List the pictures, and for each that cannot be taken the reason.

    Args:
        pipeline: Name of the pipeline.
        settings: Settings of the installation.
        client: Client of the running Airflow.
        folder: Folder for a page that no Airflow serves.
    """
    ours, framed = "/nightbid", "/plugin/nightbid/nightbid"
    workspace = Workspace(settings.workspace)
    nights = [
        run.run_id
        for run in sorted(runs_of(workspace, pipeline), key=lambda run: run.date)
        if not run.head.sweep and not run.head.overrides and run.stage("promote")
    ][-2:]
    if len(nights) == 2:
        run = f"{ours}/runs/{pipeline}/{nights[-1]}"
        yield Picture("nights", f"{framed}/", framed=True)
        yield Picture("run", run, last="#calibration")
        yield Picture("run-dark", run, first="#calibration", last="#money", dark=True)
        both = "&".join(f"run={night}" for night in nights)
        yield Picture("compare", f"{ours}/compare/{pipeline}?{both}")
        yield Picture("costs-dark", f"{ours}/costs", dark=True)
        yield Picture("champion", f"{framed}/champion/{pipeline}", framed=True)
        yield Picture("proposal", _proposal(pipeline, settings, folder),
                      last=".two section:nth-child(3)")  # fmt: skip
    else:
        yield f"nights, run, compare, costs, champion, proposal: run two nights of {pipeline} first"

    yield Picture("trigger", f"/dags/nightly_{pipeline}", "[name=element_date]", 860,
                  click="Trigger")  # fmt: skip
    for each in _runs(client, f"nightly_{pipeline}"):
        dag, run_id = each["dag_id"], each["dag_run_id"]
        states = {task.name: task.state for task in client.tasks(dag, run_id)}
        if states.get("approve") in ("deferred", "awaiting_input"):
            path = f"/dags/{dag}/runs/{run_id}/tasks/approve/required_actions"
            yield Picture("approval", path, "button:has-text('Approve')", 680, 1440)
            break
    else:
        yield "approval: no night waits for its approval (`approval: true` in the pipeline's YAML)"

    swept = [run for run in _runs(client, "sweep") if run["conf"].get("pipeline") == pipeline]
    if swept:
        run_id = swept[0]["dag_run_id"]
        name = swept[0]["conf"].get("name") or safe_run_id(f"sweep-{run_id}")
        yield Picture("sweep", f"{ours}/sweeps/{pipeline}/{name}")
        path = f"/dags/sweep/runs/{run_id}/tasks/group/trial"
        yield Picture("sweep-trials", path, "td:has-text('trial 1')", 860, 1440)
    else:
        yield f"sweep, sweep-trials: trigger a sweep of {pipeline} first"


def _runs(client: AirflowClient, dag: str) -> list[dict[str, Any]]:
    """List the runs of a DAG, newest first."""
    answer = client._call("GET", f"dags/{dag}/dagRuns?order_by=-run_after", missing_is_none=True)
    return list((answer or {"dag_runs": []})["dag_runs"])


def _proposal(pipeline: str, settings: Settings, folder: Path) -> str:
    """Write the page of `nightbid gates propose`, without the suite; return its address."""
    suites = Path("include/pipelines/suites")
    gates = find_pipeline(pipeline, settings.pipelines).gates
    page = proposal_page(
        pipeline,
        propose(Workspace(settings.workspace), pipeline, gates, nights=14),
        path=suites / f"{pipeline}.proposed.yaml",
        final=suites / f"{pipeline}.yaml",
    )
    file = folder / "proposal.html"
    file.write_text(page, encoding="utf-8")
    return file.as_uri()


def take(page: Page, at: str, picture: Picture) -> bytes:
    """Open a page and picture it; returns a PNG."""
    page.emulate_media(color_scheme="dark" if picture.dark else "light")
    page.set_viewport_size({"width": picture.width, "height": picture.height})
    page.goto(picture.path if "://" in picture.path else at + picture.path)
    if picture.click:
        page.get_by_role("button", name=picture.click).first.click()
    page.locator("iframe" if picture.framed else picture.ready).first.wait_for()
    shown = page.frames[-1] if picture.framed else page.main_frame
    shown.locator(picture.ready).first.wait_for()
    shown.locator(".chart:not(:has(svg))").first.wait_for(state="detached")
    if not shown.locator("main#content").count():  # one of Airflow's own pages
        page.wait_for_timeout(2000)
        return page.screenshot(animations="disabled")

    def top(selector: str) -> float:
        return float(shown.evaluate(f"document.querySelector('{selector}').offsetTop")) - 16

    start = top(picture.first) if picture.first else 0.0
    end = top(picture.last) if picture.last else float(shown.evaluate(BOTTOM))
    height = min(end - start, picture.height)
    if picture.framed:
        page.set_viewport_size({"width": picture.width, "height": max(int(height), FRAME_HEIGHT)})
        return page.screenshot(animations="disabled")
    clip = {"x": 0.0, "y": start, "width": float(picture.width), "height": height}
    return page.screenshot(full_page=True, clip=clip, animations="disabled")  # type: ignore[arg-type]


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Pictures; default: all.")] = None,
    port: Annotated[int, typer.Option(help="Port of the Airflow that `make ui` started.")] = 8080,
    pipeline: Annotated[str, typer.Option(help="Pipeline in the pictures.")] = "ctr",
) -> None:
    """Take the pictures and write them to docs/images."""
    settings, at = Settings(), address(port)
    password = Home.beside(settings).password()
    with (
        AirflowClient(at, USER, password) as client,
        sync_playwright() as playwright,
        tempfile.TemporaryDirectory() as folder,
    ):
        if not client.is_healthy():
            raise ConfigError(f"no healthy Airflow at {at}", where="--port", hint="run: make ui")
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        context = chromium.new_context(locale="en-US", timezone_id="UTC")
        context.set_default_timeout(90_000)
        page = context.new_page()
        page.goto(at)
        page.fill("input[name=username]", USER)
        page.fill("input[name=password]", password)
        page.keyboard.press("Enter")
        page.wait_for_url(f"{at}/")
        missed = set(names or ())
        for each in pictures(pipeline, settings, client, Path(folder)):
            if isinstance(each, str):
                typer.echo(f"left out: {each}")
            elif not names or each.name in names:
                taken = Image.open(io.BytesIO(take(page, at, each))).convert("RGB")
                small = taken.quantize(
                    COLORS, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE
                )
                small.save(IMAGES / f"{each.name}.png", optimize=True)
                missed.discard(each.name)
                typer.echo(f"docs/images/{each.name}.png")
        chromium.close()
    if missed:
        raise ConfigError(
            f"not taken: {', '.join(sorted(missed))}",
            where="pictures",
            hint="see what was left out above; the names are those of the files in docs/images",
        )


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    try:
        app()
    except NightbidError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
