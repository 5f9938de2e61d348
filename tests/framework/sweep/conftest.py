"""Databases for the tests of sweeps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from postgres import Server, find_binaries, server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server, started when the first test asks for it."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed (no initdb in /usr/lib/postgresql/*/bin or on the path)")
    with server(binaries) as running:
        yield running


@pytest.fixture
def postgres_url(postgres: Server) -> str:
    """The URL of a database that only this test uses."""
    return postgres.new_database()
