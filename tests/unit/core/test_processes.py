"""How a process ended, in words."""

import subprocess
import sys
from pathlib import Path

import pytest
from nightbid.processes import how_it_ended


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("raise SystemExit(3)", "ended with code 3: it printed nothing"),
        ("print('é'); raise ValueError(7)", "ended with code 1: ValueError: 7"),
        (
            "import os; print('half', flush=True); os.kill(os.getpid(), 9)",
            "was killed (SIGKILL), often because memory ran out",
        ),
        ("import os; os.abort()", "was ended by SIGABRT"),
        ("import os; os.kill(os.getpid(), 36)", "was ended by signal 36"),
    ],
)
def test_the_end_of_a_process_is_told_in_words(tmp_path: Path, program: str, words: str) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output:
        code = subprocess.run(
            [sys.executable, "-c", program], stdout=output, stderr=output, check=False
        ).returncode
    assert how_it_ended(code, log) == words
