"""The worker of one emulated Dataflow job: it runs a staged pipeline in a separate process.

It sends its log through a pipe, and the service turns it into messages.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from multiprocessing.connection import Connection

import apache_beam as beam
from apache_beam.internal import pickler
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, fn_runner
from apache_beam.transforms import environments
from google.cloud import storage


class Spoken(logging.Handler):
    """Turns the runner's log into messages: one line per stage of the fused pipeline."""

    def __init__(self, said: Connection) -> None:
        super().__init__()
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith("Running bundle for stage") and record.args:
            names = str(record.args[0]).replace("ref_AppliedPTransform_", "")
            self._said.send((f"Executing operation {names[:400]}", "BASIC"))


def read(address: str) -> bytes:
    bucket, _, name = address.removeprefix("gs://").partition("/")
    client = storage.Client.create_anonymous_client()
    return bytes(client.bucket(bucket).blob(name).download_as_bytes())


def run(address: str, said: Connection) -> None:
    proto = beam_runner_api_pb2.Pipeline.FromString(read(address))
    here = environments.EmbeddedPythonEnvironment.default().to_runner_api(None)
    for environment in proto.components.environments.values():
        environment.CopyFrom(here)
    pickler.set_library("cloudpickle")
    fn_runner._BUNDLE_LOGGER.setLevel(logging.DEBUG)
    fn_runner._BUNDLE_LOGGER.propagate = False
    fn_runner._BUNDLE_LOGGER.addHandler(Spoken(said))
    said.send(("Workers have started successfully.", "BASIC"))
    result = FnApiRunner().run_via_runner_api(proto, PipelineOptions([]))
    result.wait_until_finish()
    if result.state != beam.runners.runner.PipelineState.DONE:
        raise RuntimeError(f"the pipeline ended as {result.state}")


def work(address: str, storage_endpoint: str, said: Connection) -> None:
    """Run a pipeline.

    Args:
        address: gs:// address of the pipeline's proto.
        storage_endpoint: Address of the storage emulator.
        said: Function that takes a message and its importance.
    """
    # A machine of the service does not have the submitter's settings.
    for name in [name for name in os.environ if "NIGHTBID" in name]:
        del os.environ[name]
    os.environ["STORAGE_EMULATOR_HOST"] = storage_endpoint
    try:
        run(address, said)
    except Exception:
        said.send((traceback.format_exc()[-4000:], "ERROR"))
        sys.exit(1)
