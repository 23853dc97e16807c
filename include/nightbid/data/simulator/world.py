"""Participants of the exchange: users, ads and sites, with their hidden effects."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from nightbid.data.simulator.draws import Floats, Ints, choice, normal, table, uniform

TOPICS = (
    "apparel", "auto", "banking", "beauty", "books", "education", "electronics", "fitness",
    "food", "gaming", "garden", "health", "home", "insurance", "jobs", "kids",
    "movies", "music", "news", "pets", "property", "sports", "telecom", "travel",
)  # fmt: skip
CATEGORIES = TOPICS[:16]
"""Topics that ads are about."""
PAGES = tuple(f"{each}_pages" for each in TOPICS[4:])
AGES = ("13-17", "18-24", "25-34", "35-44", "45-54", "55-64", "65+")
GENDERS = ("female", "male", "other")
REGIONS = tuple(f"region_{number:02d}" for number in range(30))
LANGUAGES = ("de", "en", "es", "fr", "it", "nl", "pl", "pt")
FORMATS = ("banner", "carousel", "native", "text", "video")
DEVICES = ("desktop", "phone", "tablet", "tv")
SYSTEMS = ("android", "ios", "linux", "macos", "other", "windows")
CONNECTIONS = ("4g", "5g", "fibre", "wifi")
SITES = 300
AD_LIFE_DAYS = 40
"""An ad is replaced after this long, so that one in forty (2.5%) is new each day."""
MAX_INTERESTS = 5
FIRST_AD = 1 << 40
"""Offset of the numbers in ad names, so that ads before day 0 have positive numbers too."""


def with_nulls(names: tuple[str, ...], chosen: Ints, absent: np.ndarray) -> pa.Array:
    """Convert positions in `names` to strings, null where `absent`."""
    return pa.array(names).take(pa.array(chosen, mask=absent))


def brand_effect(seed: int, advertisers: Ints) -> Floats:
    """Attractiveness of an advertiser's ads, in logits."""
    return 0.25 * normal(seed, "brand", advertisers)


def quality_effect(seed: int, identities: Ints) -> Floats:
    """Attractiveness of an ad beyond its brand, in logits."""
    return 0.4 * normal(seed, "quality", identities)


@dataclass(frozen=True)
class Users:
    """All users of the exchange. Arrays are indexed by user number."""

    seed: int
    count: int

    @cached_property
    def _index(self) -> Ints:
        return np.arange(self.count)

    @cached_property
    def activity(self) -> Floats:
        """Relative number of impressions; heavy-tailed."""
        return np.exp(1.1 * normal(self.seed, "user activity", self._index))

    @cached_property
    def age(self) -> Ints:
        """Index into AGES."""
        weights = np.array([4, 15, 24, 20, 16, 12, 9], np.float64)
        return choice(uniform(self.seed, "user age", self._index), weights)

    @cached_property
    def region(self) -> Ints:
        """Index into REGIONS."""
        return choice(uniform(self.seed, "user region", self._index), 1.0 / np.arange(1, 31))

    @cached_property
    def device(self) -> Ints:
        """Usual device, index into DEVICES."""
        weights = np.array([30, 55, 10, 5], np.float64)
        return choice(uniform(self.seed, "user device", self._index), weights)

    @cached_property
    def taste(self) -> Floats:
        """Propensity to click, in logits."""
        return 0.45 * normal(self.seed, "user taste", self._index)

    @cached_property
    def intent(self) -> Floats:
        """Propensity to convert after a click, in logits."""
        return 0.4 * normal(self.seed, "user intent", self._index)

    @cached_property
    def interest_count(self) -> Ints:
        """Number of interests, 0 to 5."""
        weights = np.array([10, 20, 25, 22, 15, 8], np.float64)
        return choice(uniform(self.seed, "interest count", self._index), weights)

    @cached_property
    def likes(self) -> np.ndarray:
        """Bool [users, topics]: the user's interests."""
        order = uniform(
            self.seed, "interest", np.arange(self.count * len(TOPICS)).reshape(self.count, -1)
        ).argsort(axis=1)
        chosen = np.zeros(order.shape, bool)
        for place in range(MAX_INTERESTS):
            has = self.interest_count > place
            chosen[self._index[has], order[has, place]] = True
        return chosen

    @cached_property
    def columns(self) -> dict[str, pa.Array]:
        """Logged columns of each user."""
        owner, topic = np.nonzero(self.likes)
        offsets = np.searchsorted(owner, np.arange(self.count + 1)).astype(np.int32)
        interests = pa.ListArray.from_arrays(pa.array(offsets), pa.array(TOPICS).take(topic))
        index, seed = self._index, self.seed
        gender = choice(uniform(seed, "gender", index), np.array([48, 49, 3], np.float64))
        language = choice(uniform(seed, "language", index), 1.0 / np.arange(1, 9))
        return {
            "user_id": pa.array([f"u{number:07d}" for number in range(self.count)]),
            "age_band": with_nulls(AGES, self.age, uniform(seed, "no age", index) < 0.12),
            "gender": with_nulls(GENDERS, gender, uniform(seed, "no gender", index) < 0.15),
            "region": with_nulls(REGIONS, self.region, uniform(seed, "no region", index) < 0.01),
            "language": pa.array(LANGUAGES).take(pa.array(language)),
            "interests": interests,
        }

    @cached_property
    def joined(self) -> Ints:
        """Age of the account in days on the exchange's first day."""
        return (uniform(self.seed, "joined", self._index) ** 2 * 2000).astype(np.int64)


@dataclass(frozen=True)
class Ads:
    """The ads of one day. Arrays are indexed by slot; a slot gets a new ad every 40 days."""

    seed: int
    count: int
    day: int
    """Days since the exchange's first day; negative before it."""

    @cached_property
    def slots(self) -> Ints:
        """Slot numbers, 0 to count - 1."""
        return np.arange(self.count)

    @cached_property
    def _phase(self) -> Ints:
        return (uniform(self.seed, "ad phase", self.slots) * AD_LIFE_DAYS).astype(np.int64)

    @cached_property
    def age_days(self) -> Ints:
        """Days since the ad was first shown."""
        return (self.day + self._phase) % AD_LIFE_DAYS

    @cached_property
    def identity(self) -> Ints:
        """Number that is unique among the ads of all days."""
        return (self.day + self._phase) // AD_LIFE_DAYS * 1_000_003 + self.slots

    @cached_property
    def advertiser(self) -> Ints:
        """Advertiser number; a slot keeps its advertiser."""
        return (uniform(self.seed, "advertiser", self.slots) * max(self.count // 10, 1)).astype(
            np.int64
        )

    @cached_property
    def category(self) -> Ints:
        """Index into CATEGORIES, the same for all ads of an advertiser."""
        weights = 1.0 / (3 + np.arange(len(CATEGORIES)))
        return choice(uniform(self.seed, "category", self.advertiser), weights)

    @cached_property
    def format(self) -> Ints:
        """Index into FORMATS."""
        weights = np.array([35, 15, 25, 10, 15], np.float64)
        return choice(uniform(self.seed, "format", self.identity), weights)

    @cached_property
    def quality(self) -> Floats:
        """Attractiveness of the ad, brand included, in logits."""
        brand = brand_effect(self.seed, self.advertiser)
        return brand + quality_effect(self.seed, self.identity)

    @cached_property
    def landing(self) -> Floats:
        """Conversion effect of the landing page, in logits."""
        return 0.5 * normal(self.seed, "landing", self.advertiser)

    @cached_property
    def worth(self) -> Floats:
        """Value of an impression to the advertiser, USD per 1000."""
        scale = 0.6 * normal(self.seed, "worth", self.advertiser)
        return 2.0 * np.exp(scale + 0.3 * normal(self.seed, "pacing", self.identity))

    @cached_property
    def reach(self) -> Floats:
        """Relative number of auctions that the ad takes part in; heavy-tailed."""
        return np.exp(0.9 * normal(self.seed, "reach", self.identity))

    @cached_property
    def columns(self) -> dict[str, pa.Array]:
        """Logged columns of each ad."""
        names = [f"a{identity:x}" for identity in (self.identity + FIRST_AD).tolist()]
        return {
            "ad_id": pa.array(names),
            "advertiser_id": pa.array([f"adv{number:04d}" for number in self.advertiser.tolist()]),
            "ad_category": pa.array(CATEGORIES).take(pa.array(self.category)),
            "creative_format": pa.array(FORMATS).take(pa.array(self.format)),
            "ad_age_days": pa.array(self.age_days.astype(np.int32)),
        }


@dataclass(frozen=True)
class Tastes:
    """Effects that are common to all users, in logits."""

    seed: int

    @cached_property
    def sites(self) -> Floats:
        """Effect of each site, [sites]."""
        return 0.3 * table(self.seed, "site effect", SITES)

    @cached_property
    def site_page(self) -> Ints:
        """Main page category of each site, [sites], index into PAGES."""
        return (uniform(self.seed, "site page", np.arange(SITES)) * len(PAGES)).astype(np.int64)

    @cached_property
    def site_weight(self) -> Floats:
        """Relative traffic of each site, [sites]."""
        return np.exp(1.2 * table(self.seed, "site traffic", SITES))

    @cached_property
    def categories(self) -> Floats:
        """Effect of each ad category, [categories]."""
        return 0.25 * table(self.seed, "category effect", len(CATEGORIES))

    @cached_property
    def regions(self) -> Floats:
        """Effect of each region, [regions]."""
        return 0.15 * table(self.seed, "region effect", len(REGIONS))

    @cached_property
    def formats(self) -> Floats:
        """Effect of each creative format, [formats]."""
        return 0.2 * table(self.seed, "format effect", len(FORMATS))

    @cached_property
    def age_category(self) -> Floats:
        """Interaction of age band and ad category, [ages, categories]."""
        return 0.5 * table(self.seed, "age by category", len(AGES), len(CATEGORIES))

    @cached_property
    def device_format(self) -> Floats:
        """Interaction of device and creative format, [devices, formats]."""
        return 0.5 * table(self.seed, "device by format", len(DEVICES), len(FORMATS))

    @cached_property
    def daytime_page(self) -> Floats:
        """Interaction of time of day and page category, [quarters of the day, pages]."""
        return 0.35 * table(self.seed, "daytime by page", 4, len(PAGES))

    def page_category(self, day: int) -> Floats:
        """Effect of page by ad category, [pages, categories]; drifts with a period of 8 weeks."""
        now, later = (
            table(self.seed, f"page by category {name}", len(PAGES), len(CATEGORIES))
            for name in ("now", "later")
        )
        angle = 2 * np.pi * day / 56
        return np.asarray(0.6 * (np.cos(angle) * now + np.sin(angle) * later))
