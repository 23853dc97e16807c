"""Profiles: one typed settings object, its faults named before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from nightbid.config.settings import Settings
from nightbid.errors import ConfigError

CLOUD = {"project": "my-project", "region": "us-central1", "bucket": "my-bucket"}
ENDPOINT = "http://127.0.0.1:9023"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PROFILE", "WORKSPACE", "SETTINGS"):
        monkeypatch.delenv(f"NIGHTBID_{name}", raising=False)


def test_nothing_has_to_be_set_for_a_local_installation() -> None:
    settings = Settings()
    assert (settings.profile, settings.cloud) == ("local", None)
    assert settings.workspace == ".nightbid/workspace"


def test_a_file_and_variables_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(
        "profile: gcp\ncloud: {project: my-project, region: us-central1, bucket: my-bucket}\n"
    )
    monkeypatch.setenv("NIGHTBID_SETTINGS", str(path))
    assert Settings().workspace == "gs://my-bucket/nightbid"
    monkeypatch.setenv("NIGHTBID_CLOUD__BUCKET", "another-bucket")
    monkeypatch.setenv("NIGHTBID_WORKSPACE", "gs://another-bucket/team")
    settings = Settings()
    assert settings.cloud is not None
    assert (settings.cloud.project, settings.cloud.bucket) == ("my-project", "another-bucket")
    assert settings.workspace == "gs://another-bucket/team"
    path.write_text("profil: gcp\n")
    with pytest.raises(ConfigError, match="unknown key 'profil', did you mean 'profile'"):
        Settings()
    monkeypatch.setenv("NIGHTBID_SETTINGS", str(tmp_path / "absent.yaml"))
    with pytest.raises(ConfigError, match=r"no settings file .*absent\.yaml"):
        Settings()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"profile": "gpc"}, "'gpc'"),
        ({"profile": "gcp"}, r"needs cloud\.project, \.region and \.bucket"),
        ({"profile": "gcp", "cloud": {**CLOUD, "project": "X"}}, r"cloud\.project: .*'X'"),
        ({"profile": "gcp", "cloud": {**CLOUD, "regin": 1}}, "did you mean 'region'"),
        ({"profile": "gcp", "cloud": CLOUD, "workspace": "/tmp/w"}, "'/tmp/w'"),
        ({"profile": "gcp", "cloud": {**CLOUD, "storage_endpoint": ENDPOINT}}, "emulated only"),
        ({"profile": "gcp-emulated", "cloud": CLOUD}, r"needs cloud\.storage_endpoint"),
        ({"workspace": "gs://bucket/x"}, "needs profile: gcp"),
    ],
)
def test_a_fault_is_one_line_with_the_value(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        Settings(**values)
    assert "\n" not in str(caught.value)
