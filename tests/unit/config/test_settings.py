"""Profiles: one typed settings object, validated before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from nightbid.config.settings import Settings, current_settings
from nightbid.errors import ConfigError
from nightbid.storage.workspace import Workspace
from preloaded import COMMANDS

CLOUD = {"project": "my-project", "region": "us-central1", "bucket": "my-bucket"}
ENDPOINT = "http://127.0.0.1:9023"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PROFILE", "WORKSPACE", "SETTINGS"):
        monkeypatch.delenv(f"NIGHTBID_{name}", raising=False)


def test_defaults_suffice_for_a_local_installation() -> None:
    settings = Settings()
    assert (settings.profile, settings.cloud) == ("local", None)
    assert settings.workspace == ".nightbid/workspace"


def test_environment_variables_override_the_settings_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(
        "profile: gcp\ncloud: {project: my-project, region: us-central1, bucket: my-bucket}\n"
    )
    monkeypatch.setenv("NIGHTBID_SETTINGS", str(path))
    assert Settings().workspace == current_settings().workspace == "gs://my-bucket/nightbid"
    monkeypatch.setenv("NIGHTBID_CLOUD__BUCKET", "another-bucket")
    monkeypatch.setenv("NIGHTBID_WORKSPACE", "gs://another-bucket/team")
    settings = current_settings()
    assert settings is current_settings()
    assert settings.cloud is not None
    assert (settings.cloud.project, settings.cloud.bucket) == ("my-project", "another-bucket")
    assert settings.workspace == "gs://another-bucket/team"
    path.write_text("profil: gcp\n")
    with pytest.raises(ConfigError, match="unknown key 'profil', did you mean 'profile'"):
        current_settings()
    monkeypatch.setenv("NIGHTBID_SETTINGS", str(tmp_path / "absent.yaml"))
    with pytest.raises(ConfigError, match=r"no settings file .*absent\.yaml"):
        Settings()


def flow(profile: str = "gcp", **values: object) -> dict[str, object]:
    """Return settings of a cloud with Dataflow."""
    endpoint = {"storage_endpoint": ENDPOINT} if profile == "gcp-emulated" else {}
    return {"profile": profile, "cloud": {**CLOUD, **endpoint, "dataflow": values}}


def trains(**training: object) -> dict[str, object]:
    """Return settings of a cloud with managed training."""
    image = {"image": "region-docker.pkg.dev/p/nightbid/nightbid:1"}
    return {"profile": "gcp", "cloud": {**CLOUD, "training": {**image, **training}}}


def test_managed_training_accepts_all_its_settings() -> None:
    settings = Settings(
        **trains(
            machine_type="a2-highgpu-1g",
            accelerator_type="NVIDIA_TESLA_A100",
            accelerator_count=1,
            spot=True,
            service_account="trainer@my-project.iam.gserviceaccount.com",
            network="projects/123/global/networks/default",
        )
    )
    assert settings.cloud is not None
    assert settings.cloud.training is not None
    assert settings.cloud.training.spot


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"profile": "gpc"}, "'gpc'"),
        ({"poll_seconds": 0}, "poll_seconds: .*0"),
        ({"profile": "gcp"}, r"needs cloud\.project, \.region and \.bucket"),
        ({"profile": "gcp", "cloud": {**CLOUD, "project": "X"}}, r"cloud\.project: .*'X'"),
        ({"profile": "gcp", "cloud": {**CLOUD, "regin": 1}}, "did you mean 'region'"),
        ({"profile": "gcp", "cloud": CLOUD, "workspace": "/tmp/w"}, "'/tmp/w'"),
        ({"profile": "gcp", "cloud": {**CLOUD, "storage_endpoint": ENDPOINT}}, "emulated only"),
        ({"profile": "gcp-emulated", "cloud": CLOUD}, r"needs cloud\.storage_endpoint"),
        ({"workspace": "gs://bucket/x"}, "needs profile: gcp"),
        (flow(), r"cloud\.dataflow\.image is required"),
        (flow(image="i", endpoint="http://localhost:9024"), "endpoint is for profile gcp-emulated"),
        (flow("gcp-emulated"), r"needs cloud\.dataflow\.endpoint"),
        (flow("gcp-emulated", endpoint="http://127.0.0.1:9"), r"endpoint: .*127\.0\.0\.1"),
        (flow(image="i", subnetwork="regions/europe-west1/subnetworks/a"), "not in region us-c"),
        (flow(image="i", service_account="me@example.com"), "service_account: .*'me@example.com'"),
        (flow(image="i", workers=30), "workers 30 is above max_workers 20"),
        (flow(image="i", autoscaling=False), "workers must be set"),
        (flow(image="i", flexr="cost"), "did you mean 'flexrs'"),
        (trains(image="nightbid"), r"cloud\.training\.image: .*got 'nightbid'"),
        (trains(machine_type="n1"), r"machine_type: .*'n1'"),
        (trains(acelerator_count=1), "did you mean 'accelerator_count'"),
        (trains(accelerator_type="T4", accelerator_count=1), r"NVIDIA_TESLA_T4.*got 'T4'"),
        (trains(accelerator_count=2), "set both or neither"),
        (trains(service_account="me"), r"service_account: .*'me'"),
        (trains(network="default"), r"network: .*'default'"),
        (trains(endpoint=ENDPOINT), "emulated only"),
        (
            {
                "profile": "gcp-emulated",
                "cloud": {**trains()["cloud"], "storage_endpoint": ENDPOINT},  # type: ignore[dict-item]
            },
            r"needs cloud\.training\.endpoint",
        ),
    ],
)
def test_an_invalid_setting_is_reported_in_one_line_with_its_value(
    values: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Settings(**values)
    assert "\n" not in str(caught.value)


def test_each_invalid_setting_is_reported_on_its_own_line() -> None:
    cloud = {**CLOUD, "project": "X", "bucket": "B", "regin": "us-central1"}
    with pytest.raises(ConfigError) as caught:
        Settings(profile="gcp", cloud=cloud)
    lines = str(caught.value).splitlines()
    assert [line.partition("): ")[2].split(":")[0].split(",")[0] for line in lines] == [
        "unknown key 'cloud.regin'", "cloud.project", "cloud.bucket",
    ]  # fmt: skip
    assert all(line.startswith("settings (") for line in lines)
    assert lines[-1].endswith("see docs/cloud.md")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("NIGHTBID_WORKSPCE", "NIGHTBID_WORKSPACE"),
        ("NIGHTBID_PIPELINE", "NIGHTBID_PIPELINES"),
        ("nightbid_ledgr", "NIGHTBID_LEDGER"),
        ("NIGHTBID_CLOUD_PROJECT", "NIGHTBID_CLOUD__PROJECT"),
    ],
)
def test_a_misspelled_variable_is_refused_and_others_are_left_alone(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("NIGHTBID_USER_KEY", "NIGHTBID_API_TOKEN", "NIGHTBID_IMAGE", "NIGHTBID_HOME"):
        monkeypatch.setenv(other, "x")
    Settings()
    monkeypatch.setenv(name, "secret")
    # Otherwise nights would go to the default workspace, say.
    with pytest.raises(ConfigError, match=f"^{name.upper()}: .*did you mean {meant}\\?") as caught:
        Settings()
    assert "secret" not in str(caught.value)


def test_a_tilde_is_the_users_home_in_every_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "settings.yaml").write_text(
        "{pipelines: ~/p, cache: ~/c, prices: ~/prices.yaml, workspace: ~/w}"
    )
    monkeypatch.setenv("NIGHTBID_SETTINGS", "~/settings.yaml")
    monkeypatch.delenv("NIGHTBID_PRICES", raising=False)
    for settings in (Settings(), current_settings()):
        assert settings.pipelines == tmp_path / "p"
        assert settings.cache == tmp_path / "c"
        assert settings.prices == tmp_path / "prices.yaml"
        assert Workspace(settings.workspace).root.path == str(tmp_path / "w")


def test_a_tilde_within_an_option_is_the_users_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.yaml").write_text(
        "{pipeline: a, features: {ad_id: vocabulary}, source: {kind: simulator, rows_per_day: 50}}"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NIGHTBID_PIPELINES", "~/p")
    done = COMMANDS.run("data", "write", "a", "--date=2026-01-03", "--days=1", "--to=~/days")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "days").glob("dt=2026-01-03/*.parquet"))
    monkeypatch.setenv("NIGHTBID_PIPELINES", "~/absent")
    for command in (["pipelines"], ["run", "a", "--date=2026-01-03"]):
        done = COMMANDS.run(*command)
        assert done.returncode == 2
        assert f"{tmp_path}/absent: no such folder of pipelines → set NIGHTBID_P" in done.stderr
