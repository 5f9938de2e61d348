"""Every command, config and piece of code in the pages does what it says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from resume_harness import start_child, wait_for
from tiny_files import write_idx

from docs.blocks import COMMANDS, PAGES, ROOT, Block, blocks, framework_arguments, typed_rows
from docs.running import Failure, PageRun, import_what_commands_import_late
from framework.__main__ import USAGE

RUN = [page for page in PAGES if blocks(page)]


def in_fork(function) -> None:
    """Runs ``function`` in a fork, where it may import, change folders and names; what fails there fails here."""
    said = Path(".failed").resolve()

    import_what_commands_import_late()

    def child() -> None:
        try:
            function()
        except Failure as failure:
            said.write_text(str(failure), encoding="utf-8")
            sys.exit(1)

    code = wait_for(start_child(child))
    if code:
        pytest.fail(
            said.read_text(encoding="utf-8") if said.is_file() else f"the page ended with {code}", pytrace=False
        )


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run_in_order(page):
    def run() -> None:
        state = PageRun()
        for block in blocks(page):
            state.run(block)

    in_fork(run)


# A sweep starts a worker, and has tests of its own: before a release it runs, else its file and first trial are read.
@pytest.mark.slow
@pytest.mark.parametrize(
    "sweeps", [False, pytest.param(True, marks=pytest.mark.release)], ids=["alone", "with a sweep"]
)
def test_the_commands_to_type_run(sweeps):
    def run() -> None:
        state = PageRun(sweeps=sweeps)
        for what, spans in typed_rows(ROOT / "README.md"):
            for span in spans:
                if framework_arguments(span.split()) is not None:
                    state.run(Block(f"README.md, {what}", "bash", span))
                elif not span.startswith("--"):
                    raise Failure(f"README.md, {what}: {span!r} is neither a command nor options")

    in_fork(run)


@pytest.mark.slow
def test_the_options_to_type_are_accepted_and_train():
    def run() -> None:
        Path("data").mkdir()
        write_idx(Path("data/fashion-mnist"), n_train=400, classes=10)
        state = PageRun()
        for _, spans in typed_rows(ROOT / "README.md"):
            typed = ["fit", "--config", "sequence/s4d"]
            for span in spans:
                if span.startswith("--"):
                    typed += span.split()
                    state.framework([*typed, "--print_config"])
            if len(typed) > 3 and not any("ddp" in word for word in typed):
                state.framework([*typed, "--trainer.fast_dev_run=true"])

    in_fork(run)


@pytest.mark.slow
def test_what_the_usage_says_can_be_typed():
    def run() -> None:
        state = PageRun()
        (example,) = re.findall(r"^  fit +train +(--.*)$", USAGE, re.MULTILINE)
        state.framework(["fit", *example.split(), "--print_config"])
        for command in COMMANDS:
            state.framework([command, "--help"])
            if "usage: " not in state.printed:
                raise Failure(f"{command} --help prints no usage:\n{state.printed}")

    in_fork(run)


def test_the_table_of_what_to_type_is_found():
    rows = typed_rows(ROOT / "README.md")
    assert len(rows) > 15
    assert {span.split()[0] for _, spans in rows for span in spans} & set(COMMANDS)


# The runner itself: what must make a page fail.


@pytest.mark.parametrize(
    ("language", "text", "message"),
    [
        ("", "something", "no runner and no mark"),
        ("bash", "curl https://example.org", "no runner, and the block is not marked"),
        ("bash", "python -m framework fit --config sequence/s5d", "exit code 2"),
        ("bash", "framework fit --config sequence/s4d --model.d_modle=3", "model.d_modle"),
        ("yaml", "model: {}", "names its file"),
        ("yaml", "# mine.yaml\nmodel: {class_path: modules.sequence.s4d.S4D}", "exit code 2"),
        ("yaml", "# sweep.yaml\nmethod: grid\nparameters: {x: {distribution: normal}}", "sweep.yaml"),
        ("python", "1 / 0", "ZeroDivisionError"),
        ("text", "what nobody printed", "nothing like"),
    ],
)
def test_a_wrong_block_fails(language, text, message):
    def run() -> None:
        PageRun().run(Block("page:1", language, text))

    with pytest.raises(pytest.fail.Exception, match=message):
        in_fork(run)


@pytest.mark.parametrize(
    ("reason", "text", "message"),
    [
        ("", "make test", "without a reason"),
        ("needs a network", "make tset", "no target"),
        ("needs GPUs", "srun python -m framework fit --config sequence/s5d", "exit code 2"),
        ("needs a database", "python -m framework sweep FILE --wrokers 3", "--wrokers"),
    ],
)
def test_a_wrong_block_that_is_not_run_fails(reason, text, message):
    def run() -> None:
        PageRun().run(Block("page:1", "bash", text, reason))

    with pytest.raises(pytest.fail.Exception, match=message):
        in_fork(run)
