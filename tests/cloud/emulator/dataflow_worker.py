"""The machine of one emulated Dataflow job: runs a staged pipeline to its end.

`python dataflow_worker.py PIPELINE_URL`, with STORAGE_EMULATOR_HOST. It says what it does in lines
of JSON on its standard output, as the service's messages.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback

import apache_beam as beam
from apache_beam.internal import pickler
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms import environments
from google.cloud import storage


def say(text: str, level: str = "BASIC") -> None:
    print(json.dumps({"text": text, "level": level}), flush=True)  # noqa: T201


class Spoken(logging.Handler):
    """Makes messages of the runner's own log: a line per stage of the fused pipeline."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith("Running "):
            names = text.removeprefix("Running ").replace("ref_AppliedPTransform_", "")
            say(f"Executing operation {names[:160]}")


def read(address: str) -> bytes:
    bucket, _, name = address.removeprefix("gs://").partition("/")
    client = storage.Client.create_anonymous_client()
    return bytes(client.bucket(bucket).blob(name).download_as_bytes())


def run(address: str) -> None:
    proto = beam_runner_api_pb2.Pipeline.FromString(read(address))
    here = environments.EmbeddedPythonEnvironment.default().to_runner_api(None)
    for each in proto.components.environments.values():
        each.CopyFrom(here)
    pickler.set_library("cloudpickle")
    runner = logging.getLogger("apache_beam.runners.portability.fn_api_runner")
    runner.setLevel(logging.INFO)
    runner.addHandler(Spoken())
    say("Workers have started successfully.")
    result = FnApiRunner().run_via_runner_api(proto, PipelineOptions([]))
    result.wait_until_finish()
    if result.state != beam.runners.runner.PipelineState.DONE:
        raise RuntimeError(f"the pipeline ended as {result.state}")


if __name__ == "__main__":
    try:
        run(sys.argv[1])
    except Exception:
        say(traceback.format_exc()[-4000:], "ERROR")
        sys.exit(1)
