"""A simulated ad exchange with known true click and conversion probabilities.

Every row is one won impression. Columns, in order:

Roles
    ``impression_id`` int64 key · ``time`` timestamp[us, UTC], ascending within the day ·
    ``user_id`` string (heavy-tailed activity) · ``ad_id`` string (about 2.5% of the ads are
    replaced every day) · ``position`` int32, 1 (top) to 4

User
    ``age_band`` string, 7 values, 12% null · ``gender`` string, 3 values, 15% null ·
    ``region`` string, 30 values, 1% null · ``language`` string, 8 values ·
    ``interests`` list<string>, 0 to 5 of 24 topics · ``account_age_days`` int32

Ad
    ``advertiser_id`` string (ads / 10 values) · ``ad_category`` string, 16 of the topics ·
    ``creative_format`` string, 5 values · ``ad_age_days`` int32, from 0

Context
    ``site_id`` string, 300 values · ``page_category`` string, 20 values ·
    ``device_type`` string, 4 values · ``os`` string, 6 values · ``connection`` string, 4 values ·
    ``hour`` int32, UTC · ``session_depth`` int32, from 1 ·
    ``seconds_since_last_ad`` float64, null on the first ad of a session ·
    ``viewability`` float64 in [0, 1], 3% null · ``floor_price`` float64, USD per 1000

Known only after the bid, hence never features
    ``bid``, ``win_price`` float64, USD per 1000 (second-price auction) ·
    ``click`` int8 · ``click_time`` timestamp, null without a click ·
    ``conversion`` int8, only after a click · ``conversion_time`` timestamp, hours to days later

Ground truth, never features
    ``p_click_true`` float64 · ``p_conversion_true`` float64, given a click ·
    ``conversion_delay_true`` float64, mean hours from click to conversion

Effects for a model to learn: main effects of every column above, and interactions that no sum of
main effects can express: whether the ad's category is among the user's interests, page category
by ad category, age band by ad category, device by creative format, time of day by page category,
and an optimum of ``seconds_since_last_ad``. Weekly seasonality changes traffic and click rate; page
ad category drifts over weeks.
"""
