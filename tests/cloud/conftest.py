"""An installation in the profile `gcp-emulated`."""

from __future__ import annotations

from emulator.installation import dataflow, emulated, service, storage, training
from nights import two_nights

__all__ = ["dataflow", "emulated", "service", "storage", "training", "two_nights"]
