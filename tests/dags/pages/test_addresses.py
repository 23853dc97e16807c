"""Who may see which page, and how the server handles addresses from outside."""

from __future__ import annotations

from urllib.parse import quote

import httpx
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from nightbid.report.assets import scripts

from .conftest import CLIENT, GATE

ADDRESSES = {
    "": "small-1",
    "nights/small": "small-1",
    "runs/small/small-1": "the disk is full",
    "runs/small/small-1/report.html": "the disk is full",
    "compare/small?run=small-1&run=small-2": "was not evaluated",
    "costs": "No costs yet",
    "rehearsals": "numpy 2.4.6 → 2.3.5",
    "rehearsals/small/try-numpy": "a figure differs",
    "data-checks": "/data/ad_logs",
    "data-checks/first": "features: {ad_id: vocabulary}",
    "champion/small": "nightbid rollback small",
    GATE: "what the gate saw",
    "checks/raw?pipeline=small": "nightbid gates override small",
}
"""Address of each page → text on it."""


def test_pages_require_a_login(server: str) -> None:
    for address, content in ADDRESSES.items():
        for headers in ({}, {"Authorization": "Bearer x.y.z"}, {"Cookie": "_token=x.y.z"}):
            answer = httpx.get(server + address, headers=headers, **CLIENT)
            assert answer.status_code in (401, 403), address
            assert content not in answer.text
    assert "/auth/login?next=" in httpx.get(server, **CLIENT).text


def test_user_without_dag_permission_sees_no_run(server: str) -> None:
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    token = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="bob", role=None))
    headers = {"Authorization": f"Bearer {token}"}
    for address in ADDRESSES:
        answer = httpx.get(server + address, headers=headers, **CLIENT)
        listing = address in ("", "costs", "rehearsals", "data-checks") or address.startswith(
            "checks"
        )
        assert answer.status_code == (200 if listing else 404), address
        assert "small-1" not in answer.text.replace("run &#39;small-1&#39;", "")


def test_chart_scripts_are_cached_only_under_their_current_digest(server: str) -> None:
    for script in scripts():
        address = f"{server}assets/{script.name}"
        now = httpx.get(f"{address}?v={script.sha256.hex()[:16]}", **CLIENT)
        assert now.text == script.text
        assert "immutable" in now.headers["Cache-Control"]
        before = httpx.get(f"{address}?v=0123", **CLIENT)
        assert "immutable" not in before.headers["Cache-Control"]
    assert httpx.get(f"{server}assets/style.css", **CLIENT).status_code == 404


def test_every_page_opens_and_rejects_write_methods(ann: httpx.Client) -> None:
    for address, content in ADDRESSES.items():
        answer = ann.get(address)
        assert answer.status_code == 200, address
        assert content in answer.text, address
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert ann.request(method, address).status_code == 405, (method, address)


@pytest.mark.parametrize(
    "address",
    [
        "runs/small/..%2F..%2Fsecret.txt",
        "runs/..%2Fsmall/small-1",
        "runs/small/%2e%2e",
        "nights/%2e%2e",
        "champion/<script>",
        "compare/small?run=..%2Fsmall-1&run=small-2",
        "outputs/small/..%2F..%2F..%2Fsecret.txt/0123456789abcdef",
        "outputs/small/gate_raw/..%2F..%2F..%2F..%2Fsecret.txt",
        "outputs/small/gate_raw/fedcba9876543210",
        "outputs/small/sample/%00",
        "nowhere",
    ],
)
def test_unknown_or_malicious_addresses_return_404(ann: httpx.Client, address: str) -> None:
    answer = ann.get(address)
    assert answer.status_code == 404
    assert "not for everybody" not in answer.text
    assert "<script>" not in answer.text


ROUTES = (
    "nights/{}", "runs/{}/{}", "runs/{}/{}/report.html", "compare/{}?run={}&run={}", "champion/{}",
    "outputs/{}/{}/{}", "outputs/{}/{}/{}/{}", "checks/{}?pipeline={}", "rehearsals/{}/{}",
    "sweeps/{}/{}", "airflow/{}", "airflow/{}/{}", "airflow/{}/{}/{}", "assets/{}?v={}",
    "?kind={}&state={}&q={}&page={}", "nights/small?page={}&q={}",
)  # fmt: skip
KNOWN = (
    "small",
    "small-1",
    "nightly_small",
    "sample",
    "gate_raw",
    "raw",
    "..",
    "\0",
    "-1",
    "night",
)


@settings(max_examples=120, derandomize=True, phases=[Phase.generate])
@given(
    route=st.sampled_from(ROUTES),
    values=st.lists(
        st.sampled_from(KNOWN) | st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
        min_size=4, max_size=4,
    ),
)  # fmt: skip
def test_no_page_parameter_causes_a_server_error(
    eve: httpx.Client, route: str, values: list[str]
) -> None:
    address = route.format(*(quote(value, safe="") for value in values))
    answer = eve.get(address)
    assert answer.status_code < 500, (address, answer.text)


@pytest.mark.parametrize(
    ("address", "status", "words"),
    [
        ("runs/small/gone", 404, "Pipeline &#39;small&#39; has no run &#39;gone&#39;."),
        ("compare/small", 422, "Select two to 24 runs"),
        ("compare/small?run=small-1", 422, "Select two to 24 runs"),
        ("nights/small?page=many", 422, "page: "),
    ],
)
def test_error_pages_explain_the_problem_and_link_onward(
    ann: httpx.Client, address: str, status: int, words: str
) -> None:
    answer = ann.get(address)
    assert answer.status_code == status
    assert words in answer.text
    assert 'href="/nightbid/' in answer.text
