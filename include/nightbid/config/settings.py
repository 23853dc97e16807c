"""Settings of the installation: environment variables and a YAML file, typed."""

from __future__ import annotations

import difflib
import os
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from nightbid.config.cloud import Cloud, CloudProfile
from nightbid.config.explain import explain
from nightbid.config.yaml_values import read_yaml
from nightbid.errors import ConfigError

FILE = "NIGHTBID_SETTINGS"
PREFIX = "NIGHTBID_"


class Settings(BaseSettings):
    """Settings from `NIGHTBID_*` variables and from the YAML file that `NIGHTBID_SETTINGS` names.

    Variables take precedence. Two underscores separate a block and its key:
    `NIGHTBID_CLOUD__PROJECT`.

    Raises:
        ConfigError: Values are wrong or missing; the message names all of them.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    profile: CloudProfile = "local"
    """Where stages run and the workspace is; the YAML of a pipeline never depends on it."""
    workspace: str = ".nightbid/workspace"
    """Root URI of all outputs and records: a folder or gs://bucket/prefix. Default in the profiles
    `gcp` and `gcp-emulated`: gs://<cloud.bucket>/nightbid."""
    pipelines: Path = Path(__file__).resolve().parents[2] / "pipelines"
    """Folder of the pipeline YAML files."""
    cache: Path = Path.home() / ".cache" / "nightbid"
    """Folder for downloads and local copies; safe to delete."""
    prices: Path | None = None
    """Price book (YAML) to use instead of the public list prices that come with the package."""
    ledger: SecretStr | None = None
    """Database `postgresql://user:password@host/database` for the cost ledger, for installations
    with several machines; default: files in the workspace. One database serves one workspace."""
    airflow_database: SecretStr | None = None
    """Airflow's metadata database, `postgresql://user:password@host/database` or
    `sqlite:////whole/path/airflow.db`; an upgrade rehearsal migrates a copy of it. Default: the
    database that Airflow's own variables name, or that of the embedded Airflow."""
    tracking: str | None = None
    """MLflow tracking URI; default: SQLite and files in a local workspace; empty: no tracking."""
    tracking_pages: str | None = None
    """URL of the MLflow pages, for links; default: `tracking`, if that is a web address."""
    roles: tuple[str, ...] = ()
    """Airflow roles that pipelines may name in `access`, in addition to the built-in roles (Admin,
    Op, User, Viewer, Public)."""
    stop_webhook: str = ""
    """URL that receives a JSON message when a night stops, fails, is late or is missing."""
    stop_notifier: str = ""
    """Airflow notifier `package.module:Class` to call when a night stops or fails."""
    mail_to: str = ""
    """Mail addresses, separated by commas, that receive the same messages."""
    mail_from: str = "nightbid@localhost"
    """Sender of the mails."""
    smtp: SecretStr | None = None
    """Mail server: `smtp://user:password@host:587` or `smtps://host`."""
    pages: str = ""
    """URL of Airflow, for links in messages; default: Airflow's own `api.base_url`."""
    poll_seconds: float = Field(default=5.0, gt=0)
    """Seconds between two polls of a deferred task that watches a night's cost or waits for another
    night to end. Each poll lists files of the workspace; jobs have `cloud.poll_seconds`."""
    cloud: Cloud | None = None
    settings: Path | None = Field(default=None, repr=False)
    """Path of the YAML file, from `NIGHTBID_SETTINGS`."""

    def __init__(self, **values: Any) -> None:
        where = "settings (NIGHTBID_* and the file NIGHTBID_SETTINGS)"
        _refuse_misspelled(type(self))
        try:
            super().__init__(**values)
        except ValidationError as error:
            faults = explain(error, type(self), where)
            raise ConfigError(faults, where=where, hint="see docs/cloud.md") from None
        except (SettingsError, OSError) as error:
            text = " ".join(str(error).split())[:200]
            raise ConfigError(text, where=where, hint="fix the variable or file") from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: arguments take precedence over variables, variables over the file."""
        path = env_settings().get("settings")
        if not path:
            return init_settings, env_settings
        path = Path(path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"there is no settings file {str(path)!r}")
        tree = read_yaml(path, str(path)) or {}
        if not isinstance(tree, dict):
            raise SettingsError(f"{path}: settings are a mapping of keys, not {tree!r}")
        return init_settings, env_settings, InitSettingsSource(settings_cls, tree)

    @property
    def trains_elsewhere(self) -> bool:
        """Whether models train on the machines of `cloud.training`, not on the stage's machine."""
        return self.profile != "local" and self.cloud is not None and bool(self.cloud.training)

    @field_validator("pipelines", "cache", "prices", "settings")
    @classmethod
    def _of_the_users_home(cls, path: Path | None) -> Path | None:
        return path and path.expanduser()

    @field_validator("ledger")
    @classmethod
    def _address_of_a_database(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        parts = urlsplit(value.get_secret_value())
        try:
            whole = bool(parts.hostname and parts.path.strip("/")) and parts.port != 0
        except ValueError:
            whole = False
        if parts.scheme not in ("postgresql", "postgres") or not whole:
            raise ValueError(
                "not an address like postgresql://user:password@host/database"
                " (with %-escapes for : / @ in a password)"
            )
        return value

    @model_validator(mode="before")
    @classmethod
    def _workspace_in_the_bucket(cls, values: dict[str, Any]) -> dict[str, Any]:
        cloud = values.get("cloud")
        bucket = cloud.get("bucket") if isinstance(cloud, dict) else getattr(cloud, "bucket", None)
        if values.get("profile", "local") != "local" and bucket and not values.get("workspace"):
            return {**values, "workspace": f"gs://{bucket}/nightbid"}
        return values

    @model_validator(mode="after")
    def _fits_the_profile(self) -> Settings:
        if self.profile == "local":
            if self.workspace.startswith("gs://"):
                raise ValueError("a workspace on gs:// needs profile: gcp (or gcp-emulated)")
            return self
        if self.cloud is None:
            raise ValueError(f"profile {self.profile} needs cloud.project, .region and .bucket")
        if not self.workspace.startswith("gs://"):
            raise ValueError(
                f"profile {self.profile} needs a workspace on gs://, got {self.workspace!r}"
            )
        endpoints = {"storage_endpoint": self.cloud.storage_endpoint}
        for name in ("dataflow", "training"):
            if (block := getattr(self.cloud, name)) is not None:
                endpoints[f"{name}.endpoint"] = block.endpoint
        for name, endpoint in endpoints.items():
            if self.profile == "gcp" and endpoint:
                raise ValueError(f"cloud.{name} is for profile gcp-emulated only")
            if self.profile == "gcp-emulated" and not endpoint:
                raise ValueError(f"profile gcp-emulated needs cloud.{name}")
        flow = self.cloud.dataflow
        if self.profile == "gcp" and flow is not None and not flow.image:
            raise ValueError(
                "cloud.dataflow.image is required: workers have only what is in their image"
            )
        return self


def _refuse_misspelled(settings: type[Settings]) -> None:
    """Refuse variables whose names are almost those of settings: the default would be used.

    Raises:
        ConfigError: A variable is misspelled. Other variables are left to their owners.
    """
    given = [name.upper() for name in os.environ if name.upper().startswith(PREFIX)]
    known = [name.upper() for name in settings.model_fields]
    for name in given:
        rest = name.removeprefix(PREFIX)
        if rest in known or rest.startswith("CLOUD__"):
            continue
        in_cloud = [f"CLOUD__{key.upper()}" for key in Cloud.model_fields]
        for close in difflib.get_close_matches(rest, [*known, *in_cloud], 1, 0.8):
            raise ConfigError(
                f"there is no setting of this name, did you mean {PREFIX}{close}?",
                where=name,
                hint="rename or unset the variable",
            )


def current_settings() -> Settings:
    """Get the settings, which are made again only if a variable or the file has changed.

    Making them takes 1 to 3 ms, which adds up where each file of a bucket needs them.

    Raises: see `Settings`.
    """
    variables = frozenset(
        item for item in os.environ.items() if item[0].upper().startswith("NIGHTBID_")
    )
    file = os.environ.get("NIGHTBID_SETTINGS", "")
    try:
        changed = Path(file).expanduser().stat().st_mtime_ns if file else 0
    except OSError:
        changed = 0
    return _made_for(variables, changed)


@lru_cache(maxsize=1)
def _made_for(variables: frozenset[tuple[str, str]], changed: int) -> Settings:
    return Settings()
