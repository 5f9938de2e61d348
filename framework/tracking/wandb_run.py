"""Copies the metrics log to W&B: online when logged in, otherwise offline; a failure of W&B never stops the run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from framework.settings import one_of
from framework.tracking.wandb_mode import Mode, choose_mode, unreachable

STEP = "trainer/global_step"
ONLINE_SECONDS = 30.0
"""Seconds that the server may take to answer at the start, before the run switches to offline."""
SETTINGS: dict[str, Any] = {
    # otherwise the file of an offline run is written only every 15 s, too late if the process is killed
    "x_transaction_log_flush_interval": 1.0,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "disable_git": True,
    "disable_code": True,
    "console": "off",
    "silent": True,
    "init_timeout": ONLINE_SECONDS,
}


@dataclass
class WandbConfig:
    """The ``wandb`` section: whether and where W&B records the run.

    Args:
        mode: ``auto`` is online when logged in and offline otherwise; ``online`` and ``offline`` ask for one of them
            (online falls back to offline too); ``disabled`` records nothing. ``WANDB_MODE`` in the environment applies
            to ``auto``.
        project: The W&B project.
        entity: The user or team; by default the account's own default.
        group: Runs of one group are shown together, for example a sweep's.
        tags: Tags of the run.
        notes: A longer text about the run.
        job_type: The kind of run, within a group.

    Raises:
        UserError: the mode is not known.
    """

    mode: Mode = "auto"
    project: str = "framework"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    job_type: str | None = None

    def __post_init__(self) -> None:
        one_of(get_args(Mode), **{"wandb.mode": self.mode})


def make_wandb_logger(
    config: WandbConfig, run_folder: str | Path, run_id: str, name: str, hyperparameters: Mapping[str, Any]
) -> Logger | None:
    """Makes the W&B logger of a run; W&B is imported and started when training starts, on rank 0 only.

    Args:
        config: The ``wandb`` section.
        run_folder: The run's folder; W&B's files are written to ``wandb`` in it.
        run_id: W&B's id of the run: the same one for all processes of a resumed run.
        name: The name shown.
        hyperparameters: The resolved config, plain data.

    Returns:
        A logger, or ``None`` if W&B is disabled.
    """
    mode, why = choose_mode(config.mode)
    if mode == "disabled":
        return None
    return WandbRun(config, Path(run_folder), run_id, name, dict(hyperparameters), mode, why)


class WandbRun(WandbLogger):
    """Lightning's W&B logger, but rows are committed immediately, resumes keep the run id, and the run is always ended.

    The W&B step of a row is its index in the metrics log, so that a resumed process continues the numbering; the plots'
    x-axis is the trainer's global step. Made by :func:`make_wandb_logger`.

    Args:
        config: The ``wandb`` section.
        folder: The run's folder; W&B's files are written to ``wandb`` in it.
        run_id: W&B's id of the run.
        name: The name shown.
        hyperparameters: The resolved config, plain data.
        mode: ``online`` or ``offline``.
        why: The reason for the mode, for the printed line with the files' folder.
    """

    def __init__(
        self,
        config: WandbConfig,
        folder: Path,
        run_id: str,
        name: str,
        hyperparameters: dict[str, Any],
        mode: str,
        why: str,
    ) -> None:
        super().__init__(name=name, save_dir=str(folder), project=config.project, version=run_id)
        self._config = config
        self._hyperparameters = hyperparameters
        self._mode = mode
        self._why = why
        self._rows = 0
        self._paused = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; started at first use."""
        if self._experiment is None:
            self._experiment = self._start()
            self._rows = 0
        return self._experiment

    def _start(self) -> Any:
        import wandb

        # WandbLogger would make only the folder's parents; W&B warns and uses a temporary folder if it is missing
        Path(self._save_dir or ".").mkdir(parents=True, exist_ok=True)
        if self._mode == "online":
            try:
                if (reason := unreachable()) is not None:
                    raise ConnectionError(reason)
                run = self._init("online")
                print(f"W&B: {run.url}", flush=True)
                return run
            except Exception as error:
                if not isinstance(error, ConnectionError):
                    wandb.teardown()
                self._mode = "offline"
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                self._why = f"the server cannot be reached or refused: {reason}"
        run = self._init("offline")
        place = Path(run.settings.sync_dir)
        print(f"W&B offline run ({self._why}) in {place}; upload with: wandb sync {place}", flush=True)
        return run

    def _init(self, mode: Literal["online", "offline"]) -> Any:
        import wandb

        known = wandb.Settings.model_fields
        own: dict[str, Any] = {
            "id": self._id,
            "project": self._config.project,
            "entity": self._config.entity,
            "resume": "allow",
        }
        run = wandb.init(
            mode=mode,
            name=self._name,
            **({} if os.environ.get("WANDB_SWEEP_ID") else own),  # under an agent the sweep sets these
            reinit="finish_previous",  # an open run would receive this run's rows
            dir=self._save_dir,
            group=self._config.group,
            job_type=self._config.job_type,
            tags=self._config.tags or None,
            notes=self._config.notes,
            config=self._hyperparameters,
            settings=wandb.Settings(**{key: value for key, value in SETTINGS.items() if key in known}),
        )
        run.define_metric(STEP, hidden=True)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        return run

    def log_hyperparams(self, params: Any) -> None:
        """Does nothing: the resolved config is recorded when the run starts."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Adds a row at ``step``; images and tables, which are not in the metrics log, are sent with the next row."""
        if self._paused or not metrics:
            return
        run = self.experiment
        payload = {**metrics, STEP: step} if step is not None else dict(metrics)
        row = all(isinstance(value, int | float) or hasattr(value, "item") for value in metrics.values())
        # committed immediately: W&B would hold it until the next row, which a killed process never sends
        try:
            run.log(payload, step=self._rows, commit=row)
        except OSError as error:
            self._lose(error)
        self._rows += row

    def _lose(self, error: OSError) -> None:
        """Handles the death of W&B's own process: the run continues without it, and the next run starts another."""
        import wandb
        from lightning.fabric.loggers.logger import _DummyExperiment

        print(f"W&B: its process has ended, nothing more is recorded there: {error}", flush=True)
        self._experiment = _DummyExperiment()  # type: ignore[assignment] # takes whatever is asked of it
        with suppress(Exception):
            wandb.teardown()

    def pause(self) -> None:
        """Drops rows until :meth:`resend`: those that a resumed process logs before its state is restored."""
        self._paused = True

    @rank_zero_only
    def resend(self, rows: Iterable[Mapping[str, Any]] = (), before: int = 0) -> None:
        """Sends rows of the metrics log again, with their step numbers, and ends a pause.

        A killed process may not have sent them; if it had, sending the same values again does no harm.

        Args:
            rows: The rows from :meth:`~framework.tracking.metrics_log.MetricsLog.rows_from`.
            before: Number of rows of the log before them.
        """
        self._paused = False
        run = self.experiment
        known = run.step if self._mode == "online" and run.resumed else 0  # number of rows that the server has
        self._rows = before
        for row in rows:
            if self._rows < known:
                self._rows += 1
            else:
                self.log_metrics({key: value for key, value in row.items() if key != "step"}, row.get("step"))
        self._rows = max(self._rows, known)

    def finalize(self, status: str) -> None:
        """Ends the run if it failed; otherwise it stays open until :meth:`close`, because a test may follow."""
        if status != "success":
            self.close(1)

    @rank_zero_only
    def close(self, exit_code: int = 0) -> None:
        """Ends the run with ``exit_code``, if it was started and has not ended. Must be called in a ``finally``.

        An error while ending it is printed, not raised.
        """
        run, self._experiment = self._experiment, None
        if run is None:
            return
        try:
            run.finish(exit_code=exit_code)
        except Exception as error:
            print(f"W&B: the run could not be ended properly: {error}", flush=True)
