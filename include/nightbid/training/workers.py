"""Workers of one training: `python -m nightbid.training.workers JOB.json` runs one of them.

A managed training job runs this command on every machine; the service sets TF_CONFIG, and the job's
folders are shared. On one machine, `launch` starts all workers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from nightbid.errors import ConfigError, NightbidError, StageError
from nightbid.free_ports import free_ports
from nightbid.night.progress import EpochWatcher, Progress
from nightbid.processes import how_it_ended
from nightbid.training.job import FitJob, run_job


def main(path: str) -> int:
    """Run one worker; it reports to stdout, one JSON object per line."""
    job = FitJob.model_validate_json(Path(path).read_text(encoding="utf-8"))

    def progress(done: float, message: str = "") -> None:
        _say(progress=[done, message])

    def watch(epoch: int, log_loss: float, auc: float | None) -> None:
        _say(epoch=[epoch, log_loss, auc])

    try:
        _say(metrics=run_job(job, progress=progress, watch=watch))
    except NightbidError as error:
        _say(error=[error.what, error.where, error.hint], kind=type(error).__name__)
        return 1
    return 0


def launch(job: FitJob, workers: int, *, progress: Progress, watch: EpochWatcher) -> dict[str, Any]:
    """Run a job with several processes on this machine, and wait for them.

    Args:
        job: Training job to run.
        workers: Number of processes.
        progress: Callback that receives the first worker's progress.
        watch: Callback that receives the first worker's metrics after each epoch; may raise to
            end the training.

    Raises:
        StageError: A worker died. The others are stopped; a rerun resumes from the checkpoint.
        ConfigError: A worker found a configuration error.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "job.json").write_text(job.model_dump_json(), encoding="utf-8")
        addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
        processes = []
        for rank in range(workers):
            config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
            log = stack.enter_context(open(folder / f"worker{rank}.log", "w+b"))
            process = subprocess.Popen(  # noqa: S603 - our own module, arguments as a list
                [sys.executable, "-m", __name__, str(folder / "job.json")],
                env={**os.environ, "TF_CONFIG": json.dumps(config)},
                stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
                stderr=log,
            )
            stack.callback(_stop, process)
            processes.append(process)
        failures: list[tuple[int, int]] = []
        watcher = threading.Thread(target=_end_together, args=(processes, failures), daemon=True)
        watcher.start()
        metrics: dict[str, Any] | None = None
        assert processes[0].stdout is not None
        for line in processes[0].stdout:
            message = _heard(line)
            if "progress" in message:
                progress(*message["progress"])
            elif "epoch" in message:
                watch(*message["epoch"])
            elif "error" in message:
                kind = ConfigError if message["kind"] == "ConfigError" else StageError
                raise kind(message["error"][0], where=message["error"][1], hint=message["error"][2])
            elif "metrics" in message:
                metrics = message["metrics"]
        watcher.join()
        if metrics is None or failures:
            code, rank = failures[0] if failures else (0, 0)
            raise StageError(
                f"worker {rank} {how_it_ended(code, folder / f'worker{rank}.log')}",
                where="train",
                hint="run the night again: training resumes from its checkpoint",
            )
        return metrics


def _end_together(
    processes: list[subprocess.Popen[bytes]], failures: list[tuple[int, int]]
) -> None:
    """Stop all workers when one dies; they would wait for it forever.

    Args:
        processes: Workers by rank.
        failures: Receives the code and the rank of the worker that died first.
    """
    while None in (codes := [process.poll() for process in processes]) and not any(codes):
        threading.Event().wait(0.2)
    if dead := [(code, rank) for rank, code in enumerate(codes) if code]:
        # Without a killed worker, the others fail within moments. Codes of signals are negative.
        failures.append(min(dead))
        for process in processes:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()


def _say(stream: IO[str] = sys.stdout, **fields: Any) -> None:
    stream.write(json.dumps(fields) + "\n")
    stream.flush()


def _heard(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
