"""Runs a mutation and says what is wrong with how it ended."""

from __future__ import annotations

from pathlib import Path

from abuse.bases import SWITCHES
from abuse.forked import Outcome, run
from abuse.mutations import Mutation

SECONDS = 30.0
LARGE_SECONDS = 12.0  # for sizes that no machine has: slow is what they may be
STOPPED_WITHIN = 5.0


def lay_out(mutation: Mutation, folder: Path, shared: Path) -> None:
    """Writes the mutated config; the files that it reads are written once for all mutations of a config."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_bytes(mutation.text)
    (folder / "empty").mkdir()
    if mutation.base.write is not None:
        data = shared / mutation.base.name.replace("/", "+") / "data"
        if not data.exists():
            data.parent.mkdir(parents=True, exist_ok=True)
            mutation.base.write(data)
        (folder / "data").symlink_to(data)


def attempt(mutation: Mutation, folder: Path, shared: Path) -> tuple[Outcome, str | None]:
    """The outcome, and what is wrong with it."""
    lay_out(mutation, folder, shared)
    seconds = LARGE_SECONDS if mutation.large else SECONDS
    outcome = run(["fit", "--config", "config.yaml", *mutation.overrides, *SWITCHES], folder, seconds)
    return outcome, fault(mutation, outcome)


def fault(mutation: Mutation, outcome: Outcome) -> str | None:
    """What is wrong with an outcome, or ``None``."""
    if outcome.stopped is not None:
        if outcome.stopped > STOPPED_WITHIN:
            return f"SIGTERM took {outcome.stopped:.1f} s to end it"
        return None if mutation.large else "hangs"
    if "Traceback" in outcome.said:
        return "a traceback"
    if outcome.code == 0:
        return None
    if outcome.code != 2:
        return f"exit code {outcome.code}"
    _, found, message = outcome.said.partition("error: ")
    if not found:
        return "no message"
    if not any(name in message for name in mutation.names):
        return f"the message names none of {mutation.names}"
    if len(message) > 4000:
        return f"a message of {len(message)} characters"
    return None
