"""A workspace in a bucket, through the real clients and under network faults."""

from __future__ import annotations

import json
import re
import threading
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from emulator.storage import Storage
from nightbid.cost.ledger import Ledger, price_entries
from nightbid.errors import ConcurrentUpdateError, WorkspaceError
from nightbid.night.champion import ChampionPointer
from nightbid.night.manifest import FileEntry, Manifest
from nightbid.retention import prune, unneeded
from nightbid.storage.files import read_all, remove, write_atomically, write_newest, write_once
from nightbid.storage.workspace import Workspace, fetch, file_digest

BUCKET = "nightbid-test"


def names(storage: Storage) -> set[str]:
    return set(storage.buckets[BUCKET])


def test_small_files_are_written_read_listed_and_removed(storage: Storage, emulated: str) -> None:
    root = Workspace(emulated).root
    assert read_all(root / "notes", ".json") == {}
    assert not (root / "notes").exists()
    for name in ("a.json", "b.json", "c.txt"):
        write_atomically(root / "notes" / name, f"first {name}")
    write_atomically(root / "notes" / "a.json", "second")
    write_atomically(root / "notes" / "below" / "d.json", "deeper")
    assert read_all(root / "notes", ".json") == {"a.json": b"second", "b.json": b"first b.json"}
    assert (root / "notes" / "a.json").read_text() == "second", "no listing or content is cached"
    assert {path.name for path in (root / "notes").iterdir()} == {
        "a.json", "b.json", "c.txt", "below",
    }  # fmt: skip
    remove(root / "notes" / "a.json")
    remove(root / "notes" / "a.json")
    assert not (root / "notes" / "a.json").exists()
    assert Workspace(emulated).uri(root / "notes" / "b.json") == "notes/b.json"


def test_write_once_does_not_overwrite_an_existing_file(storage: Storage, emulated: str) -> None:
    path = Workspace(emulated).root / "once.json"
    write_once(path, "mine")
    with pytest.raises(FileExistsError):
        write_once(path, "yours")
    assert path.read_text() == "mine"


def test_writes_are_retried_after_errors_and_lost_responses(
    storage: Storage, emulated: str
) -> None:
    path = Workspace(emulated).root / "note.json"
    storage.fail("POST", "/upload/", 503, times=2)
    write_atomically(path, "arrived")
    # The object is created but the response is lost: the retry must recognize its own write.
    storage.fail("POST", "/upload/", 503, after=True)
    write_once(path.parent / "once.json", "mine")
    assert (path.read_text(), (path.parent / "once.json").read_text()) == ("arrived", "mine")


def test_forbidden_write_fails_in_one_line(storage: Storage, emulated: str) -> None:
    storage.fail("POST", "/upload/", 403)
    with pytest.raises(WorkspaceError, match=r"note\.json: Forbidden: .*docs/cloud\.md"):
        write_atomically(Workspace(emulated).root / "note.json", "x")


def test_forbidden_read_fails_in_one_line_and_is_not_taken_as_absent(
    storage: Storage, emulated: str
) -> None:
    root = Workspace(emulated).root
    write_atomically(root / "notes" / "a.json", "x")
    reads = [
        lambda: (root / "notes" / "a.json").read_text(),
        lambda: (root / "notes" / "a.json").exists(),
        lambda: list((root / "notes").iterdir()),
        lambda: read_all(root / "notes", ".json"),
    ]
    for read in reads:
        storage.fail("GET", "notes", 403, times=99)
        with pytest.raises(WorkspaceError, match=r"notes.*Forbidden.*roles") as caught:
            read()
        assert "\n" not in str(caught.value)
    storage.forgive()
    assert [read() for read in reads[:2]] == ["x", True]
    assert not (root / "notes" / "b.json").exists()


def test_a_poll_reads_only_new_files_of_the_ledger(storage: Storage, emulated: str) -> None:
    """Each poll of a job reads the ledger, whose files never change."""
    workspace = Workspace(emulated)

    def paid(attempt: int) -> None:
        usage = {"vcpu_hour": Decimal(attempt)}
        Ledger(workspace).append(
            price_entries(
                usage, pipeline="ctr", run_id="ctr-1", stage="train", attempt=attempt,
                started=datetime(2026, 1, 8, 2, tzinfo=UTC), state="done",
            )
        )  # fmt: skip

    def read() -> tuple[Decimal, int]:
        start = len(storage.requests)
        entries = Ledger(workspace).entries(pipeline="ctr", run_id="ctr-1")
        requests = " ".join(path for _, path in storage.requests[start:])
        asked = set(re.findall(r"[\w.]+\.json", requests))
        return sum((entry.quantity for entry in entries), Decimal(0)), len(asked)

    paid(1)
    paid(2)
    assert read()[0] == 3
    assert read() == (3, 0)
    paid(4)
    assert read() == (7, 1)
    Ledger(workspace).compact()
    assert read()[0] == 7


def output(workspace: Workspace, files: dict[str, bytes], key: str = "k") -> Path:
    """Make a finished scratch folder with a manifest."""
    scratch = Path(str(workspace.scratch(workspace.stage_folder("ctr", "train", key))))
    for name, content in files.items():
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        (scratch / name).write_bytes(content)
    entries = tuple(
        FileEntry(path=name, size=len(content), digest=file_digest(scratch / name))
        for name, content in files.items()
    )
    manifest = Manifest(
        pipeline="ctr", run_id="r", stage="train", night="2026-01-08", key=key, digest="d",
        inputs={}, spec_digest="s", code_digest="c", versions={}, seed=0, files=entries,
        created="2026-01-08T00:00:00Z",
    )  # fmt: skip
    (scratch / "manifest.json").write_text(manifest.model_dump_json())
    return scratch


FILES = {"model/weights.npz": bytes(range(256)) * 40_000, "model/card.json": b"{}", "empty": b""}


def test_output_is_committed_manifest_last_and_fetched_once_elsewhere(
    storage: Storage, emulated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(emulated)
    final = workspace.stage_folder("ctr", "train", "k")
    storage.fail("PUT", "/upload/", 503, times=2)  # during the large, resumable upload
    workspace.commit(output(workspace, FILES), final)
    uploads = [url for method, url in storage.requests if method == "POST" and "/upload/" in url]
    assert any("uploadType=resumable" in url for url in uploads)
    assert "ifGenerationMatch=0" in uploads[-1], "the manifest, which must be the only one"
    assert {name.removeprefix("nightbid/stages/ctr/train/k/") for name in names(storage)} == {
        *FILES, "manifest.json",
    }  # fmt: skip

    downloads = len(storage.requests)
    local = fetch(final)
    assert len(storage.requests) == downloads, "what was made here is not downloaded"
    monkeypatch.setenv("NIGHTBID_CACHE", str(tmp_path / "another machine"))
    storage.fail("GET", "weights.npz", 503)
    other = fetch(workspace.at(workspace.uri(final)))
    assert other != local
    assert {name: (other / name).read_bytes() for name in FILES} == FILES
    count = len(storage.requests)
    assert fetch(final) == other
    assert len(storage.requests) == count, "fetched once"


def test_fetch_downloads_only_the_requested_parts_of_an_output(
    storage: Storage, emulated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(emulated)
    final = workspace.stage_folder("ctr", "sample", "k")
    files = {"profile/a.json": b"{}", "profile/b.json": b"[]", "split=train/rows": b"many"}
    workspace.commit(output(workspace, files), final)
    monkeypatch.setenv("NIGHTBID_CACHE", str(tmp_path / "another machine"))

    def here(folder: Path) -> set[str]:
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    part = fetch(final, ("profile/a",))
    assert here(part) == {"profile/a.json"}
    assert fetch(final, ("profile/",)) == part
    assert here(part) == {"profile/a.json", "profile/b.json"}
    assert len([url for _, url in storage.requests if "a.json" in url and "alt=media" in url]) == 1
    whole = fetch(final)
    assert whole != part
    assert here(whole) == {*files, "manifest.json"}
    write_atomically(final / "split=train" / "rows", "fewer")
    monkeypatch.setenv("NIGHTBID_CACHE", str(tmp_path / "a third machine"))
    with pytest.raises(WorkspaceError, match="split=train/rows is not the file"):
        fetch(final, ("split=train/",))


def test_a_failed_commit_leaves_no_manifest(storage: Storage, emulated: str) -> None:
    workspace = Workspace(emulated)
    final = workspace.stage_folder("ctr", "train", "k")
    scratch = output(workspace, FILES)
    storage.fail("POST", "card.json", 403)
    storage.fail("POST", "/upload/", 403)
    with pytest.raises(WorkspaceError):
        workspace.commit(scratch, final)  # type: ignore[arg-type]
    assert not (final / "manifest.json").exists()
    workspace.commit(scratch, final)  # type: ignore[arg-type]
    assert (final / "manifest.json").exists()


def test_fetch_rejects_a_file_that_changed_in_the_bucket(
    storage: Storage, emulated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(emulated)
    final = workspace.stage_folder("ctr", "train", "k")
    workspace.commit(output(workspace, {"a": b"made"}), final)
    write_atomically(final / "a", "changed")
    monkeypatch.setenv("NIGHTBID_CACHE", str(tmp_path / "another machine"))
    with pytest.raises(WorkspaceError, match="a is not the file that the manifest names"):
        fetch(final)
    assert not list((tmp_path / "another machine").rglob("manifest.json"))


def test_bytes_corrupted_in_transit_are_detected(
    storage: Storage, emulated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(emulated)
    final = workspace.stage_folder("ctr", "train", "k")
    storage.spoiled.append(("received", "weights.npz"))
    scratch = output(workspace, FILES)
    with pytest.raises(WorkspaceError, match=r"DataCorruption: .*CRC32C") as caught:
        workspace.commit(scratch, final)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not (final / "manifest.json").exists()
    workspace.commit(scratch, final)  # type: ignore[arg-type]

    monkeypatch.setenv("NIGHTBID_CACHE", str(tmp_path / "another machine"))
    storage.spoiled.append(("sent", "card.json"))
    with pytest.raises(WorkspaceError, match=r"train/k: DataCorruption: .*a rerun is safe"):
        fetch(final)
    assert not list((tmp_path / "another machine").rglob("manifest.json"))
    assert (fetch(final) / "model/card.json").read_bytes() == FILES["model/card.json"]

    record = final / "manifest.json"
    text = record.read_text()
    storage.spoiled.append(("sent", "manifest.json"))
    with pytest.raises(WorkspaceError, match=r"^gs://.*/manifest\.json: the bytes changed .* crc"):
        record.read_text()
    assert record.read_text() == text


@pytest.mark.parametrize("where", ["in a bucket", "local"])
def test_newest_version_wins_among_concurrent_writers(
    where: str, storage: Storage, emulated: str, tmp_path: Path
) -> None:
    path = Workspace(emulated if where == "in a bucket" else tmp_path / "w").root / "newest"
    versions = ["1"]

    def newest() -> str:
        mine = versions[-1]
        if len(versions) == 1:
            # Another writer finishes before this one writes.
            versions.append("2")
            write_newest(path, lambda: versions[-1])
        return mine

    write_newest(path, newest)
    assert path.read_text() == "2"


def test_concurrent_promotions_take_each_number_once(storage: Storage, emulated: str) -> None:
    won, lost = [], []

    def promote(number: int) -> None:
        try:
            pointer = ChampionPointer(Workspace(emulated), "ctr")
            won.append(
                pointer.promote(
                    run_id=f"r{number}",
                    night=date(2026, 1, 8),
                    bundle_uri=f"stages/{number}",
                    bundle_digest=str(number),
                    reason="better",
                ).number
            )
        except ConcurrentUpdateError:
            lost.append(number)

    threads = [threading.Thread(target=promote, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(1, len(won) + 1))
    assert len(won) + len(lost) == 6
    pointer = ChampionPointer(Workspace(emulated), "ctr")
    assert pointer.current().number == len(won)
    assert pointer.rollback("worse", to=1).number == len(won) + 1
    assert (
        json.loads((Workspace(emulated).root / "champion/ctr/champion.json").read_text())["number"]
        == len(won) + 1
    )


def test_an_interrupted_removal_in_a_bucket_is_finished_by_the_next_one(
    storage: Storage, emulated: str
) -> None:
    workspace = Workspace(emulated)
    for key in ("serves", "old"):
        folder = workspace.stage_folder("ctr", "export", key)
        workspace.commit(output(workspace, {"a": b"1", "b": b"2"}, key), folder)
    ChampionPointer(workspace, "ctr").promote(
        run_id="r", night=date(2026, 1, 8), bundle_uri="stages/ctr/export/serves",
        bundle_digest="d", reason="first",
    )  # fmt: skip
    now = datetime.now(UTC) + timedelta(days=40)
    storage.fail("DELETE", "old/b", 403)
    with pytest.raises(WorkspaceError):
        prune(unneeded(workspace, 30, now))
    left = {name for name in names(storage) if "/old/" in name}
    assert {name.rpartition("/")[2] for name in left} >= {"b"}
    assert unneeded(workspace, 60, now).unneeded == ()
    (entry,) = unneeded(workspace, 30, now).unneeded
    assert entry.what == "left over"
    prune(unneeded(workspace, 30, now))
    assert not [name for name in names(storage) if "/old/" in name]
    assert [name for name in names(storage) if name.endswith("serves/manifest.json")]
