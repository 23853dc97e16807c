"""A damaged file of any format soon gives rows or a one-line error, in bounded memory."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pyarrow as pa
import pytest
from preloaded import COMMANDS

DAY = dt.date(2026, 1, 8)
CASES = 60
SECONDS, GIGABYTES = 10, 3
"""Seconds per file, and gigabytes for reading all files, in addition to the imports."""
PROGRAM = """
import datetime as dt, json, random, resource, signal, sys, traceback
from pathlib import Path
from nightbid.config.folder_source import FolderSource
from nightbid.data.folder import FolderLogs
from nightbid.errors import NightbidError

kind, sound, seed, cases, seconds, gigabytes = json.loads(sys.argv[1])
content = Path(sound).read_bytes()
folder = Path(sound).parent.parent / "damaged"
day = folder / "dt=2026-01-08"
day.mkdir(parents=True)

def read():
    logs = FolderLogs(FolderSource(kind=kind, folder=str(folder)))
    return sum(batch.num_rows for batch in logs.batches(dt.date(2026, 1, 8)))

def damaged(draw):
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data)) if data else 0
        how = draw.choice(("flip", "set", "cut", "drop", "double", "zeros", "swap"))
        some = draw.randint(1, 64)
        if how == "flip":
            data[at] ^= 1 << draw.randrange(8)
        elif how == "set":
            data[at] = draw.choice((0, 255, 10, 13, 34, 44, 9))
        elif how == "cut":
            del data[at + 1:]
        elif how == "drop":
            del data[at:at + some]
        elif how == "double":
            data[at:at] = data[at:at + some]
        elif how == "zeros":
            data[at:at + some] = bytes(len(data[at:at + some]))
        else:
            end = bytes(data[-some:])
            data[-some:] = data[at:at + some]
            data[at:at + some] = end
        if not data:
            data = bytearray(b"0")
    return bytes(data)

class OutOfTime(BaseException):
    pass  # no reader takes it for a fault of the file

def out_of_time(*_):
    raise OutOfTime(f"not read within {seconds} s")

pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + gigabytes * 2**30
(day / Path(sound).name).write_bytes(content)
rows, refused, faults = read(), 0, []
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
signal.signal(signal.SIGALRM, out_of_time)
for number in range(cases):
    draw = random.Random(f"{kind} {seed} {number}")
    (day / Path(sound).name).write_bytes(damaged(draw))
    print(number, file=sys.stderr, flush=True)
    signal.alarm(seconds)
    try:
        read()
    except NightbidError as error:
        refused += 1
        if "\\n" in str(error) or len(str(error)) > 1200:
            faults.append((number, f"not one line: {error}"))
    except BaseException:
        faults.append((number, traceback.format_exc(limit=-4)))
    finally:
        signal.alarm(0)
print(json.dumps({"rows": rows, "refused": refused, "faults": faults}))
"""
"""Reads the intact file, then damaged ones."""


def table() -> pa.Table:
    rows = range(300)
    midnight = dt.datetime.combine(DAY, dt.time(), dt.UTC)
    return pa.table(
        {
            "impression_id": [10**12 + at for at in rows],
            "time": [midnight + dt.timedelta(minutes=4 * at) for at in rows],
            "user_id": [f"u{at % 37}" for at in rows],
            "price": [None if at % 9 == 0 else at / 7 for at in rows],
            "interests": [["a", "b"][: at % 3] for at in rows],
            "click": [int(at % 11 == 0) for at in rows],
        }
    )


def write(kind: str, path: Path) -> None:
    import pyarrow.orc
    import pyarrow.parquet

    rows = table()
    flat = rows.drop_columns(["interests"]).to_pandas()
    if kind == "parquet":
        pyarrow.parquet.write_table(rows, path, row_group_size=100)
    elif kind == "orc":
        pyarrow.orc.write_table(rows, path)
    elif kind == "avro":
        write_avro(rows, path)
    elif kind == "jsonl":
        flat.to_json(path, orient="records", lines=True, date_format="iso")
    else:
        flat.to_csv(path, index=False)


def write_avro(rows: pa.Table, path: Path) -> None:
    import fastavro

    instant = {"type": "long", "logicalType": "timestamp-micros"}
    kinds = {
        "impression_id": "long", "time": instant, "user_id": "string",
        "price": ["null", "double"], "interests": {"type": "array", "items": "string"},
        "click": "int",
    }  # fmt: skip
    fields = [{"name": name, "type": kind} for name, kind in kinds.items()]
    schema = {"type": "record", "name": "row", "fields": fields}
    with path.open("wb") as stream:
        fastavro.writer(stream, schema, rows.to_pylist(), codec="null", sync_interval=4000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"),
    [("parquet", "part.parquet"), ("orc", "part.orc"), ("avro", "part.avro"),
     ("jsonl", "part.jsonl"), ("csv", "part.csv"), ("csv", "part.csv.gz")],
)  # fmt: skip
def test_a_damaged_file_is_read_or_rejected_in_one_line(
    tmp_path: Path, kind: str, name: str
) -> None:
    sound = tmp_path / "sound" / name
    sound.parent.mkdir()
    write(kind, sound)
    arguments = json.dumps([kind, str(sound), 0, CASES, SECONDS, GIGABYTES])
    program = tmp_path / "read.py"
    program.write_text(PROGRAM)
    done = COMMANDS.run(arguments, module=str(program))
    assert done.returncode == 0, f"ended with {done.returncode} at case {done.stderr[-300:]}"
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["rows"] == 300
    assert not report["faults"], "\n".join(
        f"case {at}: {message}" for at, message in report["faults"]
    )
    # Text is read line by line: unreadable lines are set aside, and reading continues.
    assert report["refused"] > CASES // 10 or name == "part.csv"
