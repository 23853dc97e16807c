"""One day of won impressions, in chunks of any size."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import cached_property

import numpy as np
import pyarrow as pa

from nightbid.config.sources import SimulatorSource
from nightbid.data.simulator.draws import Floats, Ints, choice, normal, uniform
from nightbid.data.simulator.world import (
    CONNECTIONS,
    DEVICES,
    PAGES,
    SITES,
    SYSTEMS,
    Ads,
    Tastes,
    Users,
)

CHUNK = 131_072
BIDDERS = 4
"""Ads that compete for each impression."""
WEEK = np.array([1.0, 0.98, 1.0, 1.02, 1.06, 1.12, 1.08])
"""Traffic by weekday, Monday first."""
WEEK_LOGIT = np.array([0.0, 0.0, 0.02, 0.02, 0.0, -0.08, -0.06])
"""The same for the readiness to click."""
BASE_CLICK, BASE_CONVERSION = -3.55, -1.9
POSITION_LOGIT = np.array([0.35, 0.0, -0.25, -0.45])
SECOND = 1_000_000
"""Timestamps are in microseconds."""


class Exchange:
    """The simulated exchange: everything that follows from its settings."""

    def __init__(self, settings: SimulatorSource) -> None:
        self.settings = settings
        self.users = Users(settings.seed, settings.users)
        self.tastes = Tastes(settings.seed)

    def rows(self, day: date) -> int:
        """Impressions of one day."""
        wobble = 1 + 0.02 * float(
            normal(self.settings.seed, "volume", np.array([day.toordinal()]))[0]
        )
        weekday = float(WEEK[day.weekday()])
        return max(1, round(self.settings.rows_per_day * weekday * wobble))

    def largest_advertisers(self, day: date, count: int) -> Ints:
        """Advertisers who win most of a day's first auctions, as many as asked; largest first."""
        maker = _Day(self, day)
        index = np.arange(min(maker.rows, CHUNK))
        won, _, _ = maker.auction(index, np.zeros(len(index)))
        wins = np.bincount(maker.ads.advertiser[won])
        return np.argsort(-wins, kind="stable")[:count]

    def batches(self, day: date, chunk: int = CHUNK) -> Iterator[pa.RecordBatch]:
        """Make one day, in order of time.

        Args:
            day: any day, of the past or the future.
            chunk: rows of a batch at most; the rows do not depend on it.
        """
        maker = _Day(self, day)
        for start in range(0, maker.rows, chunk):
            yield maker.batch(np.arange(start, min(start + chunk, maker.rows)))


class _Day:
    def __init__(self, exchange: Exchange, day: date) -> None:
        self.seed, self.day = exchange.settings.seed, day
        self.incumbent = exchange.settings.incumbent
        self.number = (day - exchange.settings.start).days
        self.users, self.tastes = exchange.users, exchange.tastes
        self.ads = Ads(self.seed, exchange.settings.ads, self.number)
        self.rows = exchange.rows(day)
        self.midnight = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * SECOND)

    @cached_property
    def _clock(self) -> tuple[Floats, Floats]:
        """Share of the day's impressions before each minute: quiet nights, busy evenings."""
        minutes = np.arange(1441) / 60
        pace = 1.2 + np.sin((minutes - 9) / 24 * 2 * np.pi) + 0.4 * np.sin(minutes / 6 * np.pi)
        passed = np.concatenate([[0.0], np.cumsum(np.maximum(pace[:-1], 0.15))])
        return passed / passed[-1], minutes * 3600

    def _draw(self, stream: str, index: Ints) -> Floats:
        return uniform(self.seed, f"{self.day} {stream}", index)

    def batch(self, index: Ints) -> pa.RecordBatch:
        """Rows with these numbers."""
        users, ads, tastes = self.users, self.ads, self.tastes
        share, seconds = self._clock
        moment = np.interp((index + self._draw("time", index)) / self.rows, share, seconds)
        time = self.midnight + np.minimum(moment * SECOND, 24 * 3600 * SECOND - 1).astype(np.int64)
        hour = ((time - self.midnight) // (3600 * SECOND)).astype(np.int32)

        user = choice(self._draw("user", index), users.activity)
        site = choice(self._draw("site", index), tastes.site_weight)
        off_topic = self._draw("off topic", index) < 0.2
        anything = (self._draw("page", index) * len(PAGES)).astype(np.int64)
        page = np.where(off_topic, anything, tastes.site_page[site])
        other = choice(self._draw("device", index), np.array([3, 5, 1, 1], np.float64))
        device = np.where(self._draw("same device", index) < 0.8, users.device[user], other)
        system = choice_by_row(self._draw("system", index), SYSTEM_OF_DEVICE[device])
        link = choice(self._draw("connection", index), np.array([30, 15, 25, 30], np.float64))
        position = choice(self._draw("position", index), np.array([40, 28, 19, 13], np.float64))
        depth = 1 + np.minimum(
            (np.log(self._draw("depth", index)) / np.log(0.75)).astype(np.int64), 40
        )
        gap = np.exp(4.0 + 1.3 * normal(self.seed, f"{self.day} gap", index))
        seen = 1 - self._draw("seen", index) ** 2.5
        floor = np.round(0.2 + 1.5 * self._draw("floor", index) ** 3, 3)

        ad, bid, price = self.auction(index, floor)
        account = users.joined[user] + self.number

        weekday = self.day.weekday()
        click_logit = (
            BASE_CLICK
            + WEEK_LOGIT[weekday]
            + users.taste[user]
            + ads.quality[ad]
            + tastes.sites[site]
            + tastes.categories[ads.category[ad]]
            + tastes.regions[users.region[user]]
            + tastes.formats[ads.format[ad]]
            + POSITION_LOGIT[position]
            + 0.9 * users.likes[user, ads.category[ad]]
            + tastes.page_category(self.number)[page, ads.category[ad]]
            + tastes.age_category[users.age[user], ads.category[ad]]
            + tastes.device_format[device, ads.format[ad]]
            + tastes.daytime_page[hour // 6, page]
            + np.where(depth > 1, 0.7 * np.exp(-((np.log(gap) - 4.5) ** 2) / 0.5), 0.1)
            - 0.25 * np.log(depth)
            + 0.6 * (seen - 0.7)
            - 0.25 * ads.age_days[ad] / 40
            + 0.04 * (link == 3)
        )
        p_click = 1 / (1 + np.exp(-click_logit))
        clicked = self._draw("click", index) < p_click
        conversion_logit = (
            BASE_CONVERSION
            + users.intent[user]
            + ads.landing[ad]
            + 0.8 * users.likes[user, ads.category[ad]]
            + 0.5 * tastes.age_category[users.age[user], (ads.category[ad] + 5) % 16]
            + 0.3 * (device == 0)
            + 0.2 * np.log1p(account / 365)
            - 0.4 * (floor > 1)
        )
        p_conversion = 1 / (1 + np.exp(-conversion_logit))
        converted = clicked & (self._draw("conversion", index) < p_conversion)
        delay = 4.0 + 3.0 * (ads.category[ad] % 5)
        click_time = time + ((1 + 8 * self._draw("dwell", index)) * SECOND).astype(np.int64)
        waited = -np.log(self._draw("delay", index)) * delay * 3600
        conversion_time = click_time + (waited * SECOND).astype(np.int64)

        stamp = pa.timestamp("us", "UTC")
        of_user = {name: each.take(pa.array(user)) for name, each in users.columns.items()}
        of_ad = {name: each.take(pa.array(ad)) for name, each in ads.columns.items()}
        columns: dict[str, pa.Array] = {
            "impression_id": pa.array(self.day.toordinal() * 10**11 + index),
            "time": pa.array(time, stamp),
            "user_id": of_user.pop("user_id"),
            "ad_id": of_ad.pop("ad_id"),
            "position": pa.array((position + 1).astype(np.int32)),
            **of_user,
            "account_age_days": pa.array(account.astype(np.int32)),
            **of_ad,
            "site_id": pa.array([f"s{number:03d}" for number in range(SITES)]).take(pa.array(site)),
            "page_category": pa.array(PAGES).take(pa.array(page)),
            "device_type": pa.array(DEVICES).take(pa.array(device)),
            "os": pa.array(SYSTEMS).take(pa.array(system)),
            "connection": pa.array(CONNECTIONS).take(pa.array(link)),
            "hour": pa.array(hour),
            "session_depth": pa.array(depth.astype(np.int32)),
            "seconds_since_last_ad": pa.array(np.round(gap, 2), mask=depth == 1),
            "viewability": pa.array(np.round(seen, 4), mask=self._draw("unseen", index) < 0.03),
            "floor_price": pa.array(floor),
            "bid": pa.array(bid),
            "win_price": pa.array(price),
            "click": pa.array(clicked.astype(np.int8)),
            "click_time": pa.array(click_time, stamp, mask=~clicked),
            "conversion": pa.array(converted.astype(np.int8)),
            "conversion_time": pa.array(conversion_time, stamp, mask=~converted),
            "p_click_true": pa.array(p_click),
            "p_conversion_true": pa.array(p_conversion),
            "conversion_delay_true": pa.array(delay.astype(np.float64)),
        }
        if self.incumbent is not None:
            blur = self.incumbent * normal(self.seed, f"{self.day} incumbent", index)
            columns["legacy_score"] = pa.array(1 / (1 + np.exp(-click_logit - blur)))
        return pa.RecordBatch.from_pydict(columns)

    def auction(self, index: Ints, floor: Floats) -> tuple[Ints, Floats, Floats]:
        """Second price: the winner pays the next bid, or the floor if that is higher.

        Returns:
            Slot of the winning ad, its bid and the price it pays (USD per 1000), all [rows].
        """
        seats = index[:, None] * BIDDERS + np.arange(BIDDERS)
        ads = choice(self._draw("bidder", seats), self.ads.reach)
        mood = 0.4 * normal(self.seed, f"{self.day} mood", seats)
        bids = self.ads.worth[ads] * np.exp(0.3 * self.ads.quality[ads] + mood)
        rows = np.arange(len(index))
        best = bids.argmax(axis=1)
        # Nobody below the floor could have won: the logs hold won impressions only.
        top = np.maximum(bids[rows, best], floor)
        bids[rows, best] = -np.inf
        price = np.maximum(bids.max(axis=1), floor)
        return ads[rows, best], np.round(top, 4), np.round(np.minimum(price, top), 4)


SYSTEM_OF_DEVICE = np.array(
    [
        [0, 0, 8, 25, 2, 65],
        [60, 40, 0, 0, 0, 0],
        [45, 50, 0, 0, 0, 5],
        [50, 5, 15, 0, 30, 0],
    ],
    np.float64,
)
"""[devices, systems]: relative frequency."""


def choice_by_row(uniforms: Floats, weights: Floats) -> Ints:
    """Draw a column for each row of `weights`."""
    edges = np.cumsum(weights, axis=1)
    return np.asarray((edges <= (uniforms * edges[:, -1])[:, None]).sum(axis=1))
