"""Generates one day of won impressions, in chunks of any size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nightbid.config.sources import SimulatorSource
from nightbid.data.simulator.columns import logged_columns
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
from nightbid.schema import CANDIDATES_TRUTH

CHUNK = 131_072
BIDDERS = 4
"""Ads that compete for each impression."""
WEEK = np.array([1.0, 0.98, 1.0, 1.02, 1.06, 1.12, 1.08])
"""Traffic by weekday, Monday first."""
WEEK_LOGIT = np.array([0.0, 0.0, 0.02, 0.02, 0.0, -0.08, -0.06])
"""Weekday effects on the click logit, Monday first."""
BASE_CLICK, BASE_CONVERSION = -3.55, -1.9
POSITION_LOGIT = np.array([0.35, 0.0, -0.25, -0.45])
SECOND = 1_000_000
"""One second in microseconds, the unit of timestamps."""


@dataclass(frozen=True)
class SimulatedAuctions:
    """Outcome of each auction; bids and prices in USD per 1000."""

    ad: Ints
    """[rows], slot of the ad that is shown."""
    bid: Floats
    """[rows], bid of that ad."""
    price: Floats
    """[rows], price paid: the next lower bid, or the floor if that is higher."""
    others: Floats
    """[rows, bidders - 1], bids of the other ads, highest first."""
    ads: Ints
    """[rows, bidders], slots of all ads that bid; one may bid twice."""
    chance: Floats
    """[rows, bidders], probability that each bid wins."""


@dataclass(frozen=True)
class AuctionContext:
    """Inputs of the click probability other than the ad, all [rows]."""

    user: Ints
    site: Ints
    page: Ints
    device: Ints
    link: Ints
    position: Ints
    hour: npt.NDArray[np.int32]
    depth: Ints
    gap: Floats
    seen: Floats


class SimulatedExchange:
    """The simulated exchange, fully determined by its settings."""

    def __init__(self, settings: SimulatorSource) -> None:
        self.settings = settings
        self.users = Users(settings.seed, settings.users)
        self.tastes = Tastes(settings.seed)

    def rows(self, day: date) -> int:
        """Number of impressions of one day."""
        wobble = 1 + 0.02 * float(
            normal(self.settings.seed, "volume", np.array([day.toordinal()]))[0]
        )
        weekday = float(WEEK[day.weekday()])
        return max(1, round(self.settings.rows_per_day * weekday * wobble))

    def largest_advertisers(self, day: date, count: int) -> Ints:
        """The `count` advertisers that win most of a day's first auctions, most wins first."""
        maker = _SimulatedDay(self, day)
        index = np.arange(min(maker.rows, CHUNK))
        won = maker.auction(index, np.zeros(len(index))).ad
        wins = np.bincount(maker.ads.advertiser[won])
        return np.argsort(-wins, kind="stable")[:count]

    def batches(self, day: date, chunk: int = CHUNK) -> Iterator[pa.RecordBatch]:
        """Generate one day, in order of time.

        Args:
            day: Any day, past or future.
            chunk: Maximum number of rows per batch; it does not affect the rows.
        """
        maker = _SimulatedDay(self, day)
        for start in range(0, maker.rows, chunk):
            yield maker.batch(np.arange(start, min(start + chunk, maker.rows)))


class _SimulatedDay:
    def __init__(self, exchange: SimulatedExchange, day: date) -> None:
        self.seed, self.day = exchange.settings.seed, day
        self.settings = exchange.settings
        self.number = (day - exchange.settings.start).days
        self.users, self.tastes = exchange.users, exchange.tastes
        self.ads = Ads(self.seed, exchange.settings.ads, self.number)
        self.rows = exchange.rows(day)
        self.midnight = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * SECOND)

    @cached_property
    def _clock(self) -> tuple[Floats, Floats]:
        """Share of the day's impressions before each minute (low at night, high in the evening)."""
        minutes = np.arange(1441) / 60
        pace = 1.2 + np.sin((minutes - 9) / 24 * 2 * np.pi) + 0.4 * np.sin(minutes / 6 * np.pi)
        passed = np.concatenate([[0.0], np.cumsum(np.maximum(pace[:-1], 0.15))])
        return passed / passed[-1], minutes * 3600

    def _draw(self, stream: str, index: Ints) -> Floats:
        return uniform(self.seed, f"{self.day} {stream}", index)

    def batch(self, index: Ints) -> pa.RecordBatch:
        """Generate the rows with these numbers."""
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

        auction = self.auction(index, floor)
        ad = auction.ad
        account = users.joined[user] + self.number
        context = AuctionContext(user, site, page, device, link, position, hour, depth, gap, seen)
        click_logit = self._click_logit(context, ad)
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
        of_user = {name: column.take(pa.array(user)) for name, column in users.columns.items()}
        of_ad = {name: column.take(pa.array(ad)) for name, column in ads.columns.items()}
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
            "bid": pa.array(auction.bid),
            "win_price": pa.array(auction.price),
            "click": pa.array(clicked.astype(np.int8)),
            "click_time": pa.array(click_time, stamp, mask=~clicked),
            "conversion": pa.array(converted.astype(np.int8)),
            "conversion_time": pa.array(conversion_time, stamp, mask=~converted),
            "p_click_true": pa.array(p_click),
            "p_conversion_true": pa.array(p_conversion),
            "conversion_delay_true": pa.array(delay.astype(np.float64)),
        }
        if self.settings.incumbent is not None:
            blur = self.settings.incumbent * normal(self.seed, f"{self.day} incumbent", index)
            columns["legacy_score"] = pa.array(1 / (1 + np.exp(-click_logit - blur)))
        if self.settings.competing_bids:
            edges = np.arange(len(index) + 1, dtype=np.int32) * (BIDDERS - 1)
            columns["competing_bids"] = pa.ListArray.from_arrays(edges, auction.others.reshape(-1))
        if self.settings.exploration is not None:
            columns |= self._offer(context, auction)
        names = logged_columns(self.settings)
        return pa.RecordBatch.from_pydict({name: columns[name] for name in names})

    def _click_logit(self, at: AuctionContext, ad: Ints) -> Floats:
        """Click logit if these ads were shown, [rows]."""
        users, ads, tastes = self.users, self.ads, self.tastes
        logit: Floats = (
            BASE_CLICK
            + WEEK_LOGIT[self.day.weekday()]
            + users.taste[at.user]
            + ads.quality[ad]
            + tastes.sites[at.site]
            + tastes.categories[ads.category[ad]]
            + tastes.regions[users.region[at.user]]
            + tastes.formats[ads.format[ad]]
            + POSITION_LOGIT[at.position]
            + 0.9 * users.likes[at.user, ads.category[ad]]
            + tastes.page_category(self.number)[at.page, ads.category[ad]]
            + tastes.age_category[users.age[at.user], ads.category[ad]]
            + tastes.device_format[at.device, ads.format[ad]]
            + tastes.daytime_page[at.hour // 6, at.page]
            + np.where(at.depth > 1, 0.7 * np.exp(-((np.log(at.gap) - 4.5) ** 2) / 0.5), 0.1)
            - 0.25 * np.log(at.depth)
            + 0.6 * (at.seen - 0.7)
            - 0.25 * ads.age_days[ad] / 40
            + 0.04 * (at.link == 3)
        )
        return logit

    def _offer(self, at: AuctionContext, auction: SimulatedAuctions) -> dict[str, pa.Array]:
        """Distinct ads that bid, their true click probabilities, and the shown ad's propensity."""
        ads = auction.ads
        # An ad that bids twice is one candidate with the sum of both probabilities.
        first = np.ones(ads.shape, np.bool_)
        for seat in range(1, BIDDERS):
            first[:, seat] = (ads[:, :seat] != ads[:, seat : seat + 1]).all(axis=1)
        chance = (auction.chance * (ads == auction.ad[:, None])).sum(axis=1)
        logits = np.stack([self._click_logit(at, ads[:, seat]) for seat in range(BIDDERS)], axis=1)
        edges = np.concatenate([[0], np.cumsum(first.sum(axis=1))]).astype(np.int32)
        names = self.ads.columns["ad_id"].take(pa.array(ads[first]))
        return {
            "propensity": pa.array(chance),
            "candidates": pa.ListArray.from_arrays(edges, names),
            CANDIDATES_TRUTH: pa.ListArray.from_arrays(
                edges, pa.array(1 / (1 + np.exp(-logits[first])))
            ),
        }

    def auction(self, index: Ints, floor: Floats) -> SimulatedAuctions:
        """Run second-price auctions: the winner pays the next bid, or the floor if that is higher.

        With `exploration`, the shown ad is drawn with probabilities by bid instead of by highest
        bid.
        """
        seats = index[:, None] * BIDDERS + np.arange(BIDDERS)
        ads = choice(self._draw("bidder", seats), self.ads.reach)
        mood = 0.4 * normal(self.seed, f"{self.day} mood", seats)
        bids = self.ads.worth[ads] * np.exp(0.3 * self.ads.quality[ads] + mood)
        rows = np.arange(len(index))
        best = bids.argmax(axis=1)
        chance = np.zeros(bids.shape)
        if self.settings.exploration is None:
            chance[rows, best] = 1.0
        else:
            odds = (bids / bids.max(axis=1, keepdims=True)) ** (1 / self.settings.exploration)
            chance = odds / odds.sum(axis=1, keepdims=True)
            best = choice_by_row(self._draw("exploration", index), chance)
        # A bid below the floor cannot win, and the logs hold won impressions only.
        top = np.maximum(bids[rows, best], floor)
        bids[rows, best] = -np.inf
        others = -np.sort(-bids, axis=1)[:, : BIDDERS - 1]
        price = np.maximum(others[:, 0], floor)
        return SimulatedAuctions(
            ads[rows, best],
            np.round(top, 4),
            np.round(np.minimum(price, top), 4),
            np.round(others, 4),
            ads,
            chance,
        )


SYSTEM_OF_DEVICE = np.array(
    [
        [0, 0, 8, 25, 2, 65],
        [60, 40, 0, 0, 0, 0],
        [45, 50, 0, 0, 0, 5],
        [50, 5, 15, 0, 30, 0],
    ],
    np.float64,
)
"""[devices, systems], relative frequency of each system."""


def choice_by_row(uniforms: Floats, weights: Floats) -> Ints:
    """Draw a column index for each row of `weights`."""
    edges = np.cumsum(weights, axis=1)
    return np.asarray((edges <= (uniforms * edges[:, -1])[:, None]).sum(axis=1))
