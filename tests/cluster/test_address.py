"""Which cluster a command joins, and what it says of one that it cannot join."""

import socket
from collections.abc import Iterator

import pytest
from ray._private import services

from cluster.ray_session import cluster_address, ray_session
from configs.errors import UserError


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine where Ray finds no cluster, whatever runs on this one."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(services, "find_gcs_addresses", frozenset[str])
    monkeypatch.setattr(services, "find_bootstrap_address", lambda temp_dir: None)


@pytest.fixture
def gone() -> Iterator[str]:
    """A port that nobody listens on, nor is given to anybody else meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.mark.parametrize("value", [None, "", "local", "http://127.0.0.1:8265"])
def test_values_that_mean_a_ray_of_its_own(alone: None, monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is not None:
        monkeypatch.setenv("RAY_ADDRESS", value)
    assert cluster_address(None) is None
    assert cluster_address("local") is None


@pytest.mark.parametrize("by_environment", [True, False])
@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("auto", "Could not find any running Ray instance"),
        ("GONE", "Connection refused"),
        ("localhost", "Invalid address format: localhost"),
        ("ray://127.0.0.1:10001", "is an address of Ray Client, which a run cannot join"),
        ("tcp://127.0.0.1:6379", "is an address of no cluster"),
    ],
)
def test_an_address_that_cannot_be_joined_is_named_with_the_way_out(
    alone: None, gone: str, monkeypatch: pytest.MonkeyPatch, address: str, why: str, by_environment: bool
) -> None:
    address = address.replace("GONE", gone)
    if by_environment:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError) as caught, ray_session(cluster_address(None if by_environment else address)):
        pass
    said = str(caught.value)
    assert why in said and (f"RAY_ADDRESS={address}" if by_environment else f"--address {address}") in said
    assert ("Unset RAY_ADDRESS" if by_environment else "Leave --address out") in said


def test_auto_is_what_ray_finds(alone: None, gone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by a process alone, as of `ray start --temp-dir`, whose folder nobody else knows."""
    monkeypatch.setattr(services, "find_gcs_addresses", lambda: frozenset({gone}))
    where = rf"--address auto \(\S+:{gone.split(':')[1]}: Connection refused"
    with pytest.raises(UserError, match=where), ray_session("auto"):
        pass
