"""W&B as a copy of the metrics log: online when logged in, offline otherwise, never in the way of the run."""

from __future__ import annotations

import configparser
import contextlib
import netrc
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse
from urllib.request import getproxies, proxy_bypass

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from framework.errors import UserError

MODES = ("auto", "online", "offline", "disabled")
STEP = "trainer/global_step"
ONLINE_SECONDS = 30.0
"""How long the server may take to answer at the start, before the run goes on offline."""
CONNECT_SECONDS = 5.0
SETTINGS: dict[str, Any] = {
    # the file of an offline run is otherwise written every 15 s, which a killed process may not live to see
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
    """Whether and where W&B records the run.

    Args:
        mode: ``auto`` is online when logged in and offline otherwise; ``online`` and ``offline`` ask for one of them
            (online falls back to offline too); ``disabled`` records nothing. The environment's ``WANDB_MODE`` counts
            for ``auto``.
        project: The W&B project.
        entity: The user or team it belongs to; the account's default by default.
        group: Runs of one group are shown together, for example a sweep's.
        tags: Words to find the run by.
        notes: A longer remark.
        job_type: The kind of run, within a group.
    """

    mode: str = "auto"
    project: str = "framework"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    job_type: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"wandb.mode: {self.mode!r} is not one of {', '.join(MODES)}")


def make_wandb_logger(
    config: WandbConfig, run_folder: str | Path, run_id: str, name: str, hyperparameters: Mapping[str, Any]
) -> Logger | None:
    """The logger of a run; W&B is imported and started when training begins, on rank 0 only.

    Args:
        config: Whether and where to record.
        run_folder: W&B's files go to ``wandb`` in it.
        run_id: W&B's id of the run: the same one for all processes of a resumed run.
        name: The name shown.
        hyperparameters: The resolved config, plain data.

    Returns:
        A logger, or ``None`` where W&B is disabled.
    """
    mode, why = choose_mode(config.mode)
    if mode == "disabled":
        return None
    return WandbRun(config, Path(run_folder), run_id, name, dict(hyperparameters), mode, why)


def choose_mode(mode: str, environment: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Decides between online, offline and disabled, without a prompt and without the network.

    Args:
        mode: As in :class:`WandbConfig`.
        environment: Environment variables; this process's by default.

    Returns:
        The mode, and why, as words that fit after "because".
    """
    environment = os.environ if environment is None else environment
    why = "asked for"
    if mode == "auto":
        mode = environment.get("WANDB_MODE", "").lower() or "auto"
        why = f"WANDB_MODE={mode}"
        mode = {"dryrun": "offline", "run": "online", "shared": "online"}.get(mode, mode)
    if mode in ("disabled", "offline"):
        return mode, why
    found = _login(environment)
    if found is None:
        return "offline", "not logged in (wandb login)"
    return "online", found


def _settings(environment: Mapping[str, str]) -> tuple[str, bool]:
    """The server's address, and whether W&B's settings files hold a key for it."""
    settings = configparser.ConfigParser(interpolation=None)
    folder = Path(environment.get("WANDB_CONFIG_DIR") or _home(environment) / ".config" / "wandb")
    with contextlib.suppress(configparser.Error, OSError, UnicodeDecodeError):
        settings.read([folder / "settings", Path("wandb") / "settings"], encoding="utf-8")
    url = environment.get("WANDB_BASE_URL") or settings.get("default", "base_url", fallback="https://api.wandb.ai")
    return str(url), bool(settings.get("default", "api_key", fallback=None))


def _home(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("HOME") or Path.home())


def _login(environment: Mapping[str, str]) -> str | None:
    """Where a login was found."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        if environment.get(name):
            return f"{name} is set"
    url, has_key = _settings(environment)
    if has_key:
        return "logged in by W&B's settings file"
    given, home = environment.get("NETRC"), _home(environment)
    for path in [Path(given).expanduser()] if given else [home / ".netrc", home / "_netrc"]:
        try:
            if path.is_file() and netrc.netrc(str(path)).authenticators(str(urlparse(url).hostname)):
                return f"logged in by {path}"
        except (netrc.NetrcParseError, OSError):
            continue
    return None


def unreachable(environment: Mapping[str, str] | None = None) -> str | None:
    """Why no connection to the W&B server, or to the proxy on the way, can be made; ``None`` if one can.

    Older versions of W&B try for minutes, whatever time they are given.
    """
    url, _ = _settings(os.environ if environment is None else environment)
    server = urlparse(url)
    if server.hostname and not proxy_bypass(server.hostname):
        server = urlparse(getproxies().get(server.scheme, url))
    try:
        port = server.port or (80 if server.scheme == "http" else 443)
        with socket.create_connection((server.hostname or "", port), timeout=CONNECT_SECONDS):
            return None
    except (OSError, ValueError) as error:
        return f"{server.hostname}: {error}"


class WandbRun(WandbLogger):
    """Lightning's W&B logger with explicit steps, one run id over all processes, and an end in every case.

    The W&B step of a row is the trainer's global step, or the last one where that would go back, which W&B does not
    take. Made by :func:`make_wandb_logger`.
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
        self._step = 0
        self._paused = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; started when first asked for."""
        if self._experiment is None:
            self._experiment = self._start()
            self._step = 0
        return self._experiment

    def _start(self) -> Any:
        import wandb

        # WandbLogger would make the folder's parents only; W&B warns and takes the temp folder if it is missing
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
        run = wandb.init(
            mode=mode,
            id=self._id,
            name=self._name,
            resume="allow",
            reinit="finish_previous",  # one left open would take this run's rows
            dir=self._save_dir,
            project=self._config.project,
            entity=self._config.entity,
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
        """Adds a row at ``step``."""
        if self._paused or not metrics:
            return
        run = self.experiment
        if step is None:
            run.log(dict(metrics), step=self._step)
            return
        self._step = max(self._step, step)
        run.log({**metrics, STEP: step}, step=self._step)

    def pause(self) -> None:
        """Drops rows until :meth:`resend`: what a resumed process logs before it is where the old one was."""
        self._paused = True

    @rank_zero_only
    def resend(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        """Sends rows of the metrics log again, with their steps, and ends a pause.

        A killed process may not have written them. Their values are the same, so that it does no harm if it had.

        Args:
            rows: What :meth:`~framework.tracking.metrics_log.MetricsLog.rows_from` gives.
        """
        self._paused = False
        run = self.experiment
        known = run.step if self._mode == "online" and run.resumed else 0  # the server takes no earlier steps
        for row in rows:
            if row.get("step", 0) >= known:
                self.log_metrics({key: value for key, value in row.items() if key != "step"}, row.get("step"))

    def finalize(self, status: str) -> None:
        """Ends the run if it failed; one that succeeded stays open, because a test may follow, until :meth:`close`."""
        if status != "success":
            self.close(1)

    @rank_zero_only
    def close(self, exit_code: int = 0) -> None:
        """Ends the run with ``exit_code``; does nothing if it has ended or never begun. To be called in a ``finally``.

        An error in ending it is printed, not raised.
        """
        run, self._experiment = self._experiment, None
        if run is None:
            return
        try:
            run.finish(exit_code=exit_code)
        except Exception as error:
            print(f"W&B: the run could not be ended properly: {error}", flush=True)
