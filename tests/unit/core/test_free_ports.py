"""Ports for servers that start later are not assigned to other programs in the meantime."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from nightbid import free_ports as module
from nightbid.free_ports import free_ports


def test_free_ports_are_outside_of_the_range_that_the_system_assigns() -> None:
    with socket.socket() as assigned:
        assigned.bind(("127.0.0.1", 0))
        ports = free_ports(3)
        assert len(set(ports)) == 3
        assert max(ports) < assigned.getsockname()[1]
    for port in ports:
        with socket.create_server(("127.0.0.1", port)):
            assert port not in free_ports(900)


@pytest.mark.parametrize("first", ["1024\t60999\n", "", None])
def test_free_ports_are_found_for_any_range_of_the_system(
    first: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if first is not None:
        (tmp_path / "range").write_text(first)
    monkeypatch.setattr(module, "RANGE", tmp_path / "range")
    assert len(set(free_ports(2))) == 2
