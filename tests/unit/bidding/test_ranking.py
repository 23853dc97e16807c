"""Ranking and slot prices: hand-computed cases and properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nightbid.bidding.ranking import rank
from nightbid.errors import DataError

AUCTIONS = st.integers(1, 6).flatmap(
    lambda ads: st.tuples(
        st.lists(st.floats(0.01, 100), min_size=ads, max_size=ads),
        st.lists(st.floats(0.001, 1), min_size=ads, max_size=ads),
    )
)


def test_gsp_prices_match_hand_computed_values() -> None:
    result = rank([4, 3, 1], [0.1, 0.2, 0.3], exposure=(1.0, 0.5), pricing="gsp")

    # Scores .4, .6, .3: the second ad leads, and pays .4 / .2; then the first pays .3 / .1.
    assert result.order.tolist() == [1, 0]
    np.testing.assert_allclose(result.ecpm, [600, 400])
    np.testing.assert_allclose(result.price, [2.0, 3.0])
    np.testing.assert_allclose(result.payment, [0.2 * 2.0, 0.5 * 0.1 * 3.0])


def test_vcg_payments_match_the_published_example() -> None:
    # Edelman et al. 2007: bids 10, 4, 2 and slots with 200 and 100 clicks; payments 600 and 200.
    result = rank([10, 4, 2], [1, 1, 1], exposure=(1.0, 0.5), pricing="vcg")

    np.testing.assert_allclose(result.price * np.array([200, 100]), [600, 200])
    gsp = rank([10, 4, 2], [1, 1, 1], exposure=(1.0, 0.5), pricing="gsp")
    np.testing.assert_allclose(gsp.price * np.array([200, 100]), [800, 200])


def test_vcg_payments_equal_the_loss_of_other_ads() -> None:
    rng = np.random.default_rng(7)
    slots = np.array([1.0, 0.7, 0.2])
    for _ in range(50):
        bids, quality = rng.uniform(0.1, 5, 6), rng.uniform(0.01, 0.9, 6)
        result = rank(bids, quality, exposure=slots, pricing="vcg")
        scores = bids * quality
        for slot, ad in enumerate(result.order):
            without = np.sort(np.delete(scores, ad))[::-1][:3] @ slots
            others = sum(scores[a] * slots[s] for s, a in enumerate(result.order) if a != ad)
            assert result.payment[slot] == pytest.approx(without - others, abs=1e-12)


def test_reserve_and_ecpm_floor_leave_slots_empty() -> None:
    result = rank([2.0, 0.4, 1.0], [0.1, 0.9, 0.1], exposure=(1, 0.5, 0.2), reserve=0.5)

    assert result.order.tolist() == [0, 2, -1]
    np.testing.assert_allclose(result.price, [1.0, 0.5, 0.0])
    assert result.filled == 2
    # A floor of 150 per thousand is 1.5 per click at quality .1, .1667 at .9.
    floored = rank([2.0, 0.4, 1.0], [0.1, 0.9, 0.1], exposure=(1, 0.5), ecpm_floor=150)
    assert floored.order.tolist() == [1, 0]
    np.testing.assert_allclose(floored.price, [0.2 / 0.9, 1.5])


def test_batched_auctions_match_single_auctions() -> None:
    rng = np.random.default_rng(1)
    bids, quality = rng.uniform(0, 3, (40, 5)), rng.uniform(0, 1, (40, 5))
    together = rank(bids, quality, exposure=(1, 0.5), pricing="vcg", reserve=0.3)
    for row in range(40):
        alone = rank(bids[row], quality[row], exposure=(1, 0.5), pricing="vcg", reserve=0.3)
        assert alone.order.tolist() == together.order[row].tolist()
        np.testing.assert_array_equal(alone.price, together.price[row])


def test_slots_stay_empty_without_ads() -> None:
    assert rank([], [], exposure=(1, 0.5)).order.tolist() == [-1, -1]
    assert rank([0.0], [0.0]).order.tolist() == [-1]


@given(AUCTIONS, st.floats(0, 2), st.sampled_from(["gsp", "vcg"]))
def test_a_single_slot_is_sold_at_the_second_price(
    auction: tuple[list[float], list[float]], reserve: float, pricing: str
) -> None:
    bids, quality = np.array(auction[0]), np.array(auction[1])
    result = rank(bids, quality, reserve=reserve, pricing=pricing)  # type: ignore[arg-type]
    eligible = np.flatnonzero(bids >= reserve)
    if not len(eligible):
        assert result.order.tolist() == [-1]
        return
    scores = bids * quality
    best = eligible[np.argmax(scores[eligible])]
    rest = np.max(np.delete(np.where(bids >= reserve, scores, 0), best), initial=0)
    assert result.order[0] == best
    assert result.price[0] == pytest.approx(max(reserve, rest / quality[best]))


@given(AUCTIONS, st.floats(1, 3), st.sampled_from(["gsp", "vcg"]), st.data())
def test_raising_a_bid_keeps_the_price_when_the_order_is_unchanged(
    auction: tuple[list[float], list[float]], factor: float, pricing: str, data: st.DataObject
) -> None:
    bids, quality = np.array(auction[0]), np.array(auction[1])
    ad = data.draw(st.integers(0, len(bids) - 1))
    exposure = (1.0, 0.6, 0.3)
    before = rank(bids, quality, exposure=exposure, pricing=pricing)  # type: ignore[arg-type]
    bids[ad] *= factor
    after = rank(bids, quality, exposure=exposure, pricing=pricing)  # type: ignore[arg-type]
    if before.order.tolist() == after.order.tolist() and ad in before.order:
        slot = before.order.tolist().index(ad)
        assert after.price[slot] == pytest.approx(before.price[slot], rel=1e-12)
        assert (after.price <= np.where(after.order >= 0, bids[after.order], 0) + 1e-12).all()


@given(AUCTIONS, st.floats(0, 200), st.floats(0, 1), st.data())
def test_truthful_bidding_is_optimal_under_vcg(
    auction: tuple[list[float], list[float]], other: float, reserve: float, data: st.DataObject
) -> None:
    values, quality = np.array(auction[0]), np.array(auction[1])
    ad = data.draw(st.integers(0, len(values) - 1))

    def utility(bid: float) -> float:
        bids = values.copy()
        bids[ad] = bid
        exposure = np.array([1.0, 0.6, 0.3])
        result = rank(bids, quality, exposure=exposure, reserve=reserve, pricing="vcg")
        if ad not in result.order:
            return 0.0
        slot = result.order.tolist().index(ad)
        return float(exposure[slot] * quality[ad] * (values[ad] - result.price[slot]))

    assert utility(float(values[ad])) >= utility(other) - 1e-9


def test_truthful_bidding_is_not_optimal_under_gsp() -> None:
    # Value 10 in slots of 200 and 199 clicks against 8 and 5: bidding 7 pays 5 instead of 8.
    exposure = (1.0, 0.995)
    honest = rank([10, 8, 5], [1, 1, 1], exposure=exposure)
    shaded = rank([7, 8, 5], [1, 1, 1], exposure=exposure)

    assert honest.order.tolist() == [0, 1]
    assert shaded.order.tolist() == [1, 0]
    assert 0.995 * (10 - shaded.price[1]) > 1.0 * (10 - honest.price[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bids": [1.0, -2.0]}, "1 of 2 values of bids is not finite and at least 0"),
        ({"quality": [0.5, float("nan")]}, "values of quality"),
        ({"quality": [0.5]}, "bids have the shape [2], quality [1]"),
        ({"exposure": (0.5, 1.0)}, "exposure is [0.5, 1.0]"),
        ({"exposure": (1.0, float("nan"))}, "exposure is [1.0, nan]"),
        ({"reserve": -1.0}, "reserve is -1"),
        ({"pricing": "third"}, "pricing is 'third'"),
    ],
)
def test_invalid_input_is_reported_in_one_line(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"bids": [1.0, 2.0], "quality": [0.5, 0.5], **change}
    with pytest.raises(DataError) as caught:
        rank(**arguments)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
