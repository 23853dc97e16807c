"""Where this installation reads and writes: environment variables, typed."""

from __future__ import annotations

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Read from `NIGHTBID_*` environment variables."""

    model_config = SettingsConfigDict(env_prefix="NIGHTBID_", frozen=True)

    workspace: str = ".nightbid/workspace"
    """Root URI of everything that is read or written: a folder or gs://bucket/prefix."""
    pipelines: Path = Path(__file__).resolve().parents[2] / "pipelines"
    """Folder of the pipeline YAML files."""
    cache: Path = Path.home() / ".cache" / "nightbid"
    """Downloads and local copies; safe to delete."""
    prices: Path | None = None
    """Price book (YAML) to use instead of the public list prices that come with the package."""
    tracking: str | None = None
    """MLflow tracking URI; default: SQLite and files below a local workspace; empty: none."""
    tracking_pages: str | None = None
    """Where a person sees MLflow, for links; default: `tracking`, if that is a web address."""
    stop_webhook: str = ""
    """Web address that gets a JSON message when a gate stops a night in Airflow."""
    stop_notifier: str = ""
    """`package.module:Class` of an Airflow notifier to call when a gate stops a night."""
