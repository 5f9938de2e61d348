"""Several supervisors on one storage, as processes of their own; one is killed in the midst of it.

They and their workers are forked; that they can be started is tested in ``test_sweep_command.py``.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from pathlib import Path

import pytest
from forked_processes import ForkedPopen, forked_by
from other_processes import alive, descendants_of, wait_until
from sweep_toys import write

from framework.__main__ import main
from framework.sweep import supervisor

PROGRAM = """
import os, sys, time
with open("starts.txt", "a") as file:
    file.write(sys.argv[1] + "\\n")
while int(sys.argv[1].removeprefix("--x=")) > 1 and not os.path.exists("go"):
    time.sleep(0.02)
with open("ends.txt", "a") as file:
    file.write(sys.argv[1] + "\\n")
"""


@pytest.fixture(scope="module", autouse=True)
def forked_workers():
    with forked_by(supervisor):
        yield


def start(number: int, storage: str, *more: str) -> ForkedPopen:
    """A supervisor with a folder of its own, as on a machine of its own; the sweep's name is that of its folder."""
    with open(f"out{number}.txt", "wb") as out:
        return ForkedPopen(
            [
                *(sys.executable, "-m", "framework", "sweep", "many.yaml"),
                *(f"--folder=machine{number}/many", f"--storage={storage}", *more),
            ],
            stdout=out,
            stderr=out,
        )


def said() -> list[str]:
    return [path.read_text() for path in Path().glob("out*.txt")]


def lines(name: str) -> Counter[str]:
    return Counter(Path(name).read_text().split()) if Path(name).exists() else Counter()


@pytest.mark.parametrize("kind", ["postgresql", "journal"])
def test_many_supervisors_share_one_sweep(tmp_path, request, kind):
    storage = "trials.log" if kind == "journal" else request.getfixturevalue("postgres_url")
    (tmp_path / "train.py").write_text(PROGRAM)
    count = 12
    write(
        tmp_path, "many", {"method": "grid", "program": "train.py", "parameters": {"x": {"values": list(range(count))}}}
    )
    first = start(0, storage, "--workers=2")
    wait_until(lambda: len(lines("starts.txt")) == 4, said=said)
    others = [start(number, storage, "--resume", f"--workers={number}") for number in (1, 2)]
    wait_until(lambda: len(lines("starts.txt")) == 7, said=said)
    left = descendants_of(first.pid)
    assert len(left) >= 4, "two workers with a program each"
    first.kill()
    first.wait()
    wait_until(lambda: not any(map(alive, left)), said=said)  # or their programs would be let go too
    Path("go").touch()
    assert [process.wait(timeout=90) for process in others] == [0, 0]
    ended = lines("ends.txt")
    assert set(ended) == {f"--x={x}" for x in range(count)}, "nothing is lost"
    assert set(ended.values()) == {1}, "nothing is repeated"
    assert sum(lines("starts.txt").values()) == count + 2, "but what the killed one had in its two hands"
    with open("machine1/many/trials.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(row["point"]) for row in table] == list(range(count))
    assert {row["state"] for row in table} == {"finished"}
    assert main(["sweep", "many.yaml", "--folder=machine3/many", f"--storage={storage}", "--resume"]) == 0
    assert lines("ends.txt") == ended, "nothing was left to do"
