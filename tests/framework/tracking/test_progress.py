"""The progress bar of a run."""

from __future__ import annotations

import io

from resume_harness import fit

from framework.tracking.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_without_a_terminal(tmp_path):
    out = io.StringIO()
    bar = Progress(line_seconds=0.0, stream=out)
    fit(tmp_path, max_epochs=2, val_check_interval=0.5, enable_progress_bar=True, callbacks=[bar])
    lines = out.getvalue().splitlines()
    assert len(lines) == 4  # a validation within and an end of each epoch
    assert lines[-1].startswith("epoch 2/2  step 20  ")
    assert "train/loss_epoch" in lines[-1]
    assert "it/s" in lines[-1]
    assert "v_num" not in out.getvalue()
    assert "\r" not in out.getvalue()


def test_few_lines_for_fast_epochs_but_always_the_last(tmp_path):
    out = io.StringIO()
    fit(tmp_path, max_epochs=4, callbacks=[Progress(line_seconds=60, stream=out)], enable_progress_bar=True)
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[-1].startswith("epoch 4/4  step 40")


def test_a_terminal_is_redrawn(tmp_path):
    out = Terminal()
    fit(tmp_path, max_epochs=1, callbacks=[Progress(refresh_seconds=0, stream=out)], enable_progress_bar=True)
    assert "train/loss" in out.getvalue()
    assert "10/10" in out.getvalue().rsplit("\r", 1)[-1]
    assert out.getvalue().endswith("\n")


def test_redrawing_goes_by_the_clock(tmp_path):
    out = Terminal()
    fit(tmp_path, max_epochs=3, callbacks=[Progress(refresh_seconds=60, stream=out)], enable_progress_bar=True)
    assert out.getvalue().count("\r") <= 2
