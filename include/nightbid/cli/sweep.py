"""`nightbid sweep`: runs the trials of a sweep in this process, with progress bars."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from nightbid.cli.night import BarProgress
from nightbid.cli.output import print_json
from nightbid.config.settings import Settings
from nightbid.counts import counted
from nightbid.differences import signed
from nightbid.errors import BudgetExceeded, ConfigError
from nightbid.report.formatting import count, duration, money, number
from nightbid.report.table import MARK as VERDICTS
from nightbid.sweep.study import Sweep, Trial
from nightbid.sweep.summary import TITLES, winner_command, write_page
from nightbid.sweep.track import track_trials
from nightbid.sweep.trials import forecast, prepare, run_trial, spent

STYLE = {"done": "green", "pruned": "yellow", "failed": "red", "running": "cyan"}


def budget_of(text: str) -> Decimal | None:
    """Parse `5USD`, `5 USD` or `5`; None for an empty text.

    Raises:
        ConfigError: The text has another form.
    """
    if not text:
        return None
    try:
        amount = Decimal(text.upper().removesuffix("USD").strip())
    except InvalidOperation:
        amount = Decimal(0)
    if not amount.is_finite() or amount <= 0:
        raise ConfigError(
            f"cannot read the budget {text!r}", where="--budget", hint="write --budget 5USD"
        )
    return amount


def run_sweep(sweep: Sweep, settings: Settings, console: Console, *, as_json: bool = False) -> None:
    """Run all remaining trials, then print the leaderboard and the winner's command.

    With `as_json`, progress goes to standard error and the trials, best first, to standard output.

    Raises:
        NightbidError: A gate stopped the data, or they are missing or damaged.
    """
    head = sweep.head
    if as_json:
        console = Console(stderr=True, markup=False)
    with sweep.alone("run"):
        console.rule(Text(head.name, "bold"))
        if (expected := forecast(sweep, settings)) is not None:
            console.print(
                f"forecast: {money(expected)} at cloud prices for"
                f" {counted(head.trials, 'trial')}, from the nights before",
                highlight=False,
            )
        with _bars(console) as bars:
            for result in prepare(sweep, settings, partial(_bar, bars)):
                manifest = result.manifest
                parts = [Text.assemble(("✓", "green"), f" {manifest.stage}")]
                parts += [VERDICTS["reused"]] if result.reused else []
                parts += [VERDICTS[manifest.verdict]] if manifest.verdict else []
                parts += [Text(manifest.summary)] if manifest.summary else []
                console.print(Text("  ").join(parts), soft_wrap=True)
        try:
            for at in range(1, head.trials + 1):
                with _bars(console) as bars:
                    show = partial(_bar, bars, before=f"trial {at}: ")
                    trial = run_trial(sweep, at, settings, show)
                    console.print(_line(sweep, trial), soft_wrap=True)
        except BudgetExceeded as stopped:
            console.print(Text.assemble(("stopped", "yellow"), f" {stopped}"), soft_wrap=True)
        finally:
            if sweep.trials():
                console.print(f"page: {write_page(sweep, settings)}", soft_wrap=True,
                              highlight=False)  # fmt: skip
    if as_json:
        ranked = sweep.ranked()
        print_json(
            {
                "sweep": head.name,
                "metric": head.metric,
                "trials": [*ranked, *(trial for trial in sweep.trials() if trial not in ranked)],
                "winner": winner_command(sweep, ranked[0]) if ranked else None,
            }
        )
    else:
        show_sweep(sweep, settings, console)
    if message := track_trials(sweep, settings):
        console.print(message, soft_wrap=True, highlight=False, markup=False)


def show_sweep(sweep: Sweep, settings: Settings, console: Console) -> None:
    """Print the leaderboard, the importance of the settings and the winner's command."""
    console.print(leaderboard(sweep))
    if importances := sweep.importances():
        shares = (f"{name} {share:.0%}" for name, share in importances.items())
        console.print(f"importance: {', '.join(shares)}", highlight=False)
    cost, expected = spent(sweep, settings), forecast(sweep, settings)
    judged = ""
    if expected and cost:
        judged = f", forecast {money(expected)} ({signed(float(expected / cost) - 1, '.0%')})"
    console.print(f"cost: {money(cost)} at cloud prices{judged}", highlight=False)
    if not (ranked := sweep.ranked()):
        console.print("no trial succeeded: there is no winner")
        return
    console.print("run the winner as a candidate, through every gate:")
    console.print(winner_command(sweep, ranked[0]), soft_wrap=True, highlight=False, markup=False)


def leaderboard(sweep: Sweep) -> Table:
    """Make a table of all trials, the best first."""
    table = Table(
        "place",
        "trial",
        title=f"{sweep.head.name}, by {TITLES[sweep.head.metric]}",
        title_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
        header_style="underline",
    )
    trials = sweep.trials()
    for parameter in sweep.space.parameters:
        # Split into words, a name can take several lines, so that a narrow terminal fits values.
        words = parameter.key.removeprefix("model.parameters.").replace(".", " ").replace("_", " ")
        shown = [*words.split(), *(parameter.text(trial.values[parameter.key]) for trial in trials)]
        table.add_column(words, width=max(map(len, shown)))
    for name in ("log\nloss", "AUC", "weights", "time", "USD"):
        table.add_column(name, justify="right", no_wrap=True)
    ranked = sweep.ranked()
    rest = [trial for trial in trials if trial not in ranked]
    for place, trial in enumerate([*ranked, *rest], 1):
        table.add_row(
            str(place) if place <= len(ranked) else _state(trial),
            str(trial.number),
            *[parameter.text(trial.values[parameter.key]) for parameter in sweep.space.parameters],
            number(trial.log_loss, 5),
            number(trial.auc, 4),
            count(trial.parameters),
            duration(trial.seconds) if trial.seconds else "",
            money(trial.cost_usd, currency=False) if trial.cost_usd else "",
            style="bold" if place == 1 and ranked else "",
        )
    return table


def _line(sweep: Sweep, trial: Trial) -> Text:
    varied = " ".join(trial.overrides[len(sweep.space.fixed) :])
    figures = f"log loss {number(trial.log_loss, 5)}, AUC {number(trial.auc)}"
    outcome = figures if trial.state == "done" else trial.error
    return Text.assemble(_state(trial), f" trial {trial.number:>3}  {varied}  {outcome}")


def _state(trial: Trial) -> Text:
    return Text(trial.state, STYLE[trial.state])


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _bar(bars: Progress, name: str, before: str = "") -> BarProgress:
    for task in bars.tasks:
        bars.remove_task(task.id)
    return BarProgress(bars, bars.add_task(f"{before}{name}", total=1.0, detail=""))
