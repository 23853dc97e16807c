"""The gRPC API of the emulated Dataflow, over TLS, which the clients use in `gcp`.

Beam's runner speaks REST only to a host named `localhost`, and gRPC to every other host.
Each call becomes the equivalent REST request, so both APIs share jobs and faults.

    python dataflow_grpc.py PORT --rest PORT --storage URL [--host NAME]

serves both APIs. Clients must trust its certificate, `roots.pem` in the folder that it prints.
"""

from __future__ import annotations

import argparse
import datetime as dt
import ipaddress
import json
import sys
import tempfile
import threading
from concurrent import futures
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.cloud import dataflow_v1beta3 as api
from google.protobuf import json_format

if __package__ in (None, ""):
    sys.path.append(str(Path(__file__).parents[1]))
from emulator.dataflow import Dataflow
from emulator.rpc import handlers

PACKAGE = "google.dataflow.v1beta3"
HOST = "127.0.0.1"
CODES = {
    400: grpc.StatusCode.FAILED_PRECONDITION,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ALREADY_EXISTS,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}


class GrpcFace:
    """Serves a Dataflow over gRPC.

    Args:
        service: Dataflow whose jobs it serves.
        folder: Folder of the certificate, `roots`, that its clients must trust
            (`GRPC_DEFAULT_SSL_ROOTS_FILE_PATH`). A certificate in it is reused.
        port: Port to listen on; 0 picks a free one.
        host: Address or name that the certificate is for.
    """

    def __init__(self, service: Dataflow, folder: Path, port: int = 0, *, host: str = HOST) -> None:
        self.calls: list[str] = []
        """Names of the called methods, in order."""
        self.roots = folder / "roots.pem"
        self._service = service
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
        self._server.add_generic_rpc_handlers(
            (
                handlers(
                    f"{PACKAGE}.JobsV1Beta3",
                    {
                        "CreateJob": (api.CreateJobRequest, api.Job, self._create),
                        "GetJob": (api.GetJobRequest, api.Job, self._get),
                        "UpdateJob": (api.UpdateJobRequest, api.Job, self._update),
                        "ListJobs": (api.ListJobsRequest, api.ListJobsResponse, self._list),
                    },
                ),
                handlers(
                    f"{PACKAGE}.MessagesV1Beta3",
                    {
                        "ListJobMessages": (
                            api.ListJobMessagesRequest, api.ListJobMessagesResponse, self._messages,
                        )
                    },
                ),
                handlers(
                    f"{PACKAGE}.MetricsV1Beta3",
                    {"GetJobMetrics": (api.GetJobMetricsRequest, api.JobMetrics, self._metrics)},
                ),
            )
        )  # fmt: skip
        secret = folder / "key.pem"
        if not secret.exists():
            key, certificate = _certificate(host)
            self.roots.write_bytes(certificate)
            secret.write_bytes(key)
        identity = grpc.ssl_server_credentials([(secret.read_bytes(), self.roots.read_bytes())])
        bound_port = self._server.add_secure_port(f"{host}:{port}", identity)
        self.endpoint = f"https://{host}:{bound_port}"

    def start(self) -> GrpcFace:
        self._server.start()
        return self

    def stop(self) -> None:
        self._server.stop(None).wait()

    def _create(self, request: api.CreateJobRequest, context: Any) -> api.Job:
        return self._ask("CreateJob", "POST", _jobs(request), context, api.Job, request.job)

    def _get(self, request: api.GetJobRequest, context: Any) -> api.Job:
        return self._ask("GetJob", "GET", _job(request), context, api.Job)

    def _update(self, request: api.UpdateJobRequest, context: Any) -> api.Job:
        return self._ask("UpdateJob", "PUT", _job(request), context, api.Job, request.job)

    def _list(self, request: api.ListJobsRequest, context: Any) -> api.ListJobsResponse:
        query = {"filter": int(request.filter), **({"name": request.name} if request.name else {})}
        where = f"{_jobs(request)}?{urlencode(query)}"
        return self._ask("ListJobs", "GET", where, context, api.ListJobsResponse)

    def _messages(self, request: api.ListJobMessagesRequest, context: Any) -> Any:
        query = {
            "minimumImportance": int(request.minimum_importance),
            "pageToken": request.page_token,
            "pageSize": request.page_size or 100,
        }
        if request.start_time:
            query["startTime"] = request.start_time.isoformat()
        where = f"{_job(request)}/messages?{urlencode(query)}"
        return self._ask("ListJobMessages", "GET", where, context, api.ListJobMessagesResponse)

    def _metrics(self, request: api.GetJobMetricsRequest, context: Any) -> api.JobMetrics:
        where = f"{_job(request)}/metrics"
        return self._ask("GetJobMetrics", "GET", where, context, api.JobMetrics)

    def _ask(
        self, name: str, method: str, url: str, context: Any, kind: Any, body: Any = None
    ) -> Any:
        self.calls.append(name)
        sent = json_format.MessageToJson(type(body).pb(body)).encode() if body is not None else b""
        response = self._service.answer(method, url, {}, sent)
        if response.status != 200:
            text = json.loads(response.body)["error"]["message"]
            context.abort(CODES.get(response.status, grpc.StatusCode.UNKNOWN), text)
        answer = kind()
        json_format.Parse(response.body, kind.pb(answer))
        return answer


def _jobs(request: Any) -> str:
    return f"/v1b3/projects/{request.project_id}/locations/{request.location}/jobs"


def _job(request: Any) -> str:
    return f"{_jobs(request)}/{request.job_id}"


def _certificate(host: str) -> tuple[bytes, bytes]:
    """Create a key and a certificate of a host, valid for a month."""
    try:
        subject: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        subject = x509.DNSName(host)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Dataflow emulator")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([subject]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return secret, certificate.public_bytes(serialization.Encoding.PEM)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int, nargs="?", default=0)
    parser.add_argument("--rest", type=int, default=0)
    parser.add_argument("--storage", required=True)
    parser.add_argument("--host", default=HOST)
    asked = parser.parse_args()
    folder = Path(tempfile.gettempdir()) / "nightbid-dataflow"
    folder.mkdir(exist_ok=True, mode=0o700)
    served = Dataflow(asked.rest, storage=asked.storage, host=asked.host)
    face = GrpcFace(served, folder, asked.port, host=asked.host).start()
    print(f"{face.endpoint} {served.endpoint} {face.roots}", flush=True)  # noqa: T201
    served.start()
    threading.Event().wait()
