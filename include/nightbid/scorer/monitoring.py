"""What a scorer reports about its processes: `/ready`, `/health`, `/metrics` and `/shadow`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from nightbid.scorer import shadow_sums
from nightbid.scorer.follow import Follower, OneBundle, ServedBundle
from nightbid.scorer.metrics import MISSED, UNPREPARED, WAITING, WorkerStates, exposition, totals
from nightbid.scorer.refusals import json_response, no_champion


class Monitoring:
    """Endpoints for load balancers, dashboards and people.

    Args:
        follower: Provides the champion.
        states: States of all processes.
        waiting: Returns the number of requests that wait in this process.
        has_shadow: Whether a second bundle scores the same requests.
    """

    def __init__(
        self,
        follower: Follower | OneBundle,
        states: WorkerStates,
        *,
        waiting: Callable[[], int],
        has_shadow: bool,
    ) -> None:
        self._follower = follower
        self._states = states
        self._waiting = waiting
        self._has_shadow = has_shadow

    def report(self, served: ServedBundle | None) -> None:
        """Report what this process counts itself; other processes answer most scrapes.

        Args:
            served: Bundle whose lookups are counted.
        """
        WAITING.set(self._waiting())
        if served is not None:
            MISSED.inc(served.newly_missed())
            UNPREPARED.inc(served.newly_unprepared())

    def routes(self) -> list[Route]:
        """Return the routes of the endpoints."""
        return [
            Route("/ready", self.ready),
            Route("/health", self.health),
            Route("/metrics", self.metrics),
            Route("/shadow", self.differences),
        ]

    async def ready(self, request: Request) -> Response:
        """Respond with 200 if every process serves a champion, else 503."""
        states = self._states.read()
        for state in states:
            if state["champion"] is None:
                raise no_champion(state["trouble"])
        return json_response({"champion": _oldest(states), "trouble": _trouble(states)})

    async def health(self, request: Request) -> Response:
        """Return the champion, the numbers of requests, and errors."""
        states = self._states.read()
        counts = totals(
            ("nightbid_requests_total", "nightbid_rows_total", "nightbid_refused_total")
        )
        serving = all(state["champion"] for state in states)
        return json_response(
            {
                "status": "serving" if serving else "waiting for a champion",
                "champion": _oldest(states) if serving else None,
                "trouble": _trouble(states),
                "processes": len(states),
                "requests": counts["nightbid_requests_total"],
                "rows": counts["nightbid_rows_total"],
                "refused": counts["nightbid_refused_total"],
            }
        )

    async def metrics(self, request: Request) -> Response:
        """Return metrics in Prometheus' text format."""
        self.report(self._follower.state.served)
        return Response(exposition(self._states), media_type="text/plain; version=0.0.4")

    async def differences(self, request: Request) -> Response:
        """Compare the scores of champion and shadow."""
        sums = shadow_sums.read(self._states.folder) if self._has_shadow else None
        if sums is None:
            state = "starting" if self._has_shadow else "none → start the scorer with --shadow"
            raise HTTPException(404, f"shadow: {state}")
        pairs = [pair.summary() for pair in sums.pairs.values()]
        counts = {"skipped": sums.skipped, "failed": sums.failed}
        return json_response(
            {"shadow": sums.of, **counts, "trouble": sums.trouble or None, "comparisons": pairs}
        )


def _oldest(states: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the oldest champion in service: every process has reached at least this one."""
    champions: list[dict[str, Any]] = [state["champion"] for state in states if state["champion"]]
    return min(champions, key=lambda champion: int(champion["number"]), default=None)


def _trouble(states: list[dict[str, Any]]) -> str | None:
    return next((str(state["trouble"]) for state in states if state["trouble"]), None)
