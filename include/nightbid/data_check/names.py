"""Infers the meaning of a column from its name."""

from __future__ import annotations

import re

UNIT = r"(_?(usd|eur|gbp|micros?|micro_?usd|cents?|cpm|cpm_?micros?))?"
"""Pattern of the unit after the name of an amount of money."""

MEANINGS: dict[str, tuple[str, ...]] = {
    "key": (
        r"(impression|imp|ad_?request|request|req|auction|event|bid|log|record|row|txn"
        r"|transaction)_?(id|key|uuid|guid)",
        r"(uuid|guid|id|key|impression)",
    ),
    "time": (
        r"(served|impression|imp|request|event|show|log|bid|auction)_?(at|ts|time|timestamp|date"
        r"|datetime|ms|us)",
        r"(time|timestamp|ts|datetime|date_?time|created_at|created|time_?ms|epoch|unix_?time)",
        r".*_(at|ts|time|timestamp|datetime|ms|epoch)",
        r"(date|hour|day)",
    ),
    "user": (
        r"(user|uid|user_?id|user_?key|user_?hash)",
        r"(visitor|member|customer|player|viewer|profile|person|account|cookie|client)(_?(id|key))?",
        r"(device_?id|ifa|idfa|gaid|aaid|maid|advertising_?id|ipinyou_?id|anonymous_?id)",
        r"(session|session_?id|ip|ip_?address|device_?ip)",
    ),
    "item": (
        r"(ad|ad_?id|creative|creative_?id|banner|banner_?id|(ad|creative|banner)_?name)",
        r"(item|video|product|article|news|movie|song|offer|sku|asin|content|goods)(_?id)?",
        r"(ad_?group|line_?item|campaign|advertiser)(_?(id|name))?",
    ),
    "position": (r"(position|pos|slot|slot_?(no|number|index)|rank|ad_?position|banner_?pos)",),
    "price": (r"(win|winning|market|paying|pay|clearing|paid|settle)_?(price|cost|amount)" + UNIT,
              r"price_?paid" + UNIT),
    "bid": (r"(bid|bid_?price|bid_?amount|bidding_?price)" + UNIT,),
    "floor": (r"(floor|floor_?price|bid_?floor|reserve|reserve_?price|slot_?price)" + UNIT,),
    "value": (r"(revenue|conversion_?value|order_?value|purchase_?value|gmv|sale_?amount)",),
    "amount": (
        r"(.*_)?(revenue|amount|gmv|value|spend|sales|payout|ltv|watch_?(time|seconds|ms)|dwell"
        r"(_?(time|seconds|sec|s|ms))?|play_?time|duration)(_?(usd|eur|ms|sec|seconds))?",
    ),
    "label": (
        r"(is_?)?(click|clicked|clicks|clk)",
        r"(label|target|y)",
        r"(is_?)?(conversion|converted|convert|conv|install|installed|purchase|purchased|buy"
        r"|bought|sale|order|lead|signup|action|engaged|engagement)",
        r"(is_?)?(like|liked|share|follow|comment|forward|long_?view|finish|view|watched)",
    ),
    "event": (r"(.*_)?(event|event_?(type|name|kind)|action|action_?type|status|type|kind|result"
              r"|outcome|response|state)",),
    "outcome": (
        r"(.*_)?(click|clicked|clicks|clk|conversion|converted|conversions|install|purchase"
        r"|attributed|attribution|dwell|dwell_?time|dwell_?(s|ms|sec|seconds)|watch_?time(_ms)?"
        r"|play_?time(_ms)?|stay_?time|viewable|viewability|viewed|revenue|payout|reward|bounce"
        r"|propensity|propensity_?score)",
        r"(.*_)?(true|truth)",
        r"(is_?)?(like|liked|share|shared|follow|comment|forward|hate|long_?view|finish|complete"
        r"|completed)",
    ),
    "prediction": (r"(.*_)?(pctr|pcvr|pclick|p_?(ctr|cvr|click)|predicted_?(ctr|cvr|click)"
                   r"|(ctr|cvr|click)_?(pred|prediction|score|probability|prob)"
                   r"|(legacy|model|old)_?score)",),
    "past": (
        r".*(hist|rate|ctr|cvr|prev|past|avg|mean|last|since|_\d+[dh]|age|pred|score|prior|ratio"
        r"|cnt|count|num).*",
    ),
    "code": (r".*(id|code|type|category|cat|zip|postal|postcode|region|city|country|brand|class"
             r"|segment|version|model|status|level|group|network|channel)s?",),
}  # fmt: skip
"""Meaning → patterns of whole names, most specific first."""


def plain(name: str) -> str:
    """Normalize a name to snake case: `servedAt` and `Served At` become `served_at`."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def rank_of(name: str, meaning: str) -> int | None:
    """Index of the first pattern of a meaning that a name matches, or None."""
    spelled = plain(name)
    for at, pattern in enumerate(MEANINGS[meaning]):
        if re.fullmatch(pattern, spelled):
            return at
    return None


def has_meaning(name: str, meaning: str) -> bool:
    """Return whether a name matches any pattern of a meaning."""
    return rank_of(name, meaning) is not None
