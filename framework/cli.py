"""The typed command line: LightningCLI fed with a composed config instead of ``sys.argv``."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jsonargparse
import lightning.pytorch as pl
from jsonargparse import ArgumentError, Namespace
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, _InstantiatorFn
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from framework import catalogue, run
from framework.config import explain, values, yaml12
from framework.config.compose import SUBCOMMAND_KEYS, Composed, Request, compose, read_command_line
from framework.config.interpolate import interpolate
from framework.editing import Technique, order
from framework.editing.engine import Editing
from framework.errors import UserError
from framework.launcher import watch_ranks
from framework.mistakes import explained, first_line
from framework.record import EndsAtOnce, NoProfiler, own_callbacks, own_loggers, own_plugins
from framework.run import Run, RunConfig
from framework.settings import at_least, brief
from framework.tracking.wandb_run import WandbConfig

# What a constructor raises over values that it cannot take; of a failed look-up a bug is the likelier cause.
REFUSALS = (TypeError, ValueError, ArithmeticError, RuntimeError, AssertionError, MisconfigurationException)
GROUPS: dict[str, type] = {"run": RunConfig, "wandb": WandbConfig}
BASES: dict[str, type] = {"model": pl.LightningModule, "data": pl.LightningDataModule, "techniques": Callback}

# Lightning, and so we, call jsonargparse by names that newer versions deprecate.
_RENAMED = r"(?s).*(was deprecated in v4\.|JSONARGPARSE_DEPRECATION)"

jsonargparse.set_loader("yaml12", yaml12.load_string, exceptions=(yaml12.YAMLError,))
jsonargparse.set_dumper("yaml12", yaml12.dump)


class CommandLine(LightningCLI):
    """LightningCLI for one subcommand over a composed config: parses and instantiates, runs nothing.

    Args:
        subcommand: ``fit``, ``validate``, ``test`` or ``predict``.
        composed: The merged tree.
        identity: The run's folder and id, for the parts that write into it.
        start: The checkpoint that the run starts from, opened.
    """

    def __init__(
        self,
        subcommand: str,
        composed: Composed,
        identity: Run | None = None,
        start: Mapping[str, Any] | None = None,
    ) -> None:
        self._chosen = subcommand
        self._composed = composed
        self._identity = identity
        self._start = start
        self._raised: tuple[Exception, type] | None = None
        self._tree: dict[str, Any] | None = None
        self._text: str | None = None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_RENAMED)
            options = {"exit_on_error": False, "parser_mode": "yaml12", "dump_header": []}
            super().__init__(
                save_config_callback=None,
                trainer_defaults={"log_every_n_steps": 10},
                seed_everything_default=0,
                auto_configure_optimizers=False,
                parser_kwargs={**options, subcommand: options},
            )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Only the chosen one: building the other parsers would cost as much again."""
        return {self._chosen: LightningCLI.subcommands()[self._chosen]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the run, tracking and technique sections."""
        for section, cls in GROUPS.items():
            parser.add_class_arguments(cls, section)
        for name in self._composed.tree.get("techniques") or {}:
            parser.add_subclass_arguments(Callback, f"techniques.{name}", required=False)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Checks the composed tree against every signature.

        Raises:
            UserError: a value is not accepted; one message with all mistakes.
        """
        groups = {**GROUPS, "trainer": pl.Trainer}
        unusable = values.unusable(self._composed, BASES, groups)
        try:
            # the parser around the subcommand's would parse all again
            settings = self._subcommand_parsers[self._chosen].parse_object(self._composed.tree)
        except (ArgumentError, TypeError, ValueError, KeyError, ArithmeticError) as error:
            problems = [*unusable, *explain.explain(self._composed, BASES, groups)]
            raise UserError("\n".join(problems or [" ".join(str(error).split())[:400]])) from error
        if unusable:
            raise UserError("\n".join(unusable))
        self.config = Namespace(subcommand=self._chosen, **{self._chosen: settings})

    def _parse_ckpt_path(self) -> None:
        """A checkpoint's hyper-parameters never override what was configured; see :func:`report_differences`."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing runs here: the caller holds the trainer, the module and the datamodule."""

    def _add_instantiators(self) -> None:
        """As LightningCLI's, but what a constructor raises is kept: jsonargparse takes it for a refused type."""
        for key, base in BASES.items():
            self.parser.add_instantiator(self._instantiator(key), base, subclasses=True)

    def _instantiator(self, key: str) -> Callable[..., Any]:
        lightnings = _InstantiatorFn(cli=self, key=key)

        def build(class_type: type, *args: Any, applied_instantiation_links: dict[str, Any], **kwargs: Any) -> Any:
            try:
                if key == "techniques":
                    return class_type(*args, **kwargs)
                if self._start is not None:  # the checkpoint's weights stand for what only a start needs
                    kwargs |= dict.fromkeys(kwargs.keys() & set(getattr(class_type, "start_only", ())))
                return lightnings(class_type, *args, applied_instantiation_links=applied_instantiation_links, **kwargs)
            except Exception as error:
                self._raised = self._raised or (error, class_type)
                raise

        return build

    def instantiate_classes(self) -> None:
        """Builds everything; a constructor's :class:`UserError` comes out with its section and place."""
        try:
            super().instantiate_classes()
        except Exception as error:
            raised, cls = self._raised or (error, None)
            raise (self._mistake(raised, cls) or raised) from (raised if isinstance(raised, UserError) else None)

    def _mistake(self, error: Exception, cls: type | None) -> UserError | None:
        """What a user did wrong for a constructor to raise ``error``; ``None`` where that is a bug of ours."""
        place = self._section_of(cls)
        if isinstance(error, UserError):
            return UserError(self._locate(str(error), place))
        misused = isinstance(error, MisconfigurationException)
        message = None if misused else explained(error, self.settings.as_dict())
        if message is not None:
            return UserError(message)
        if place is None or cls is None or not isinstance(error, REFUSALS):
            return None
        settings: Any = self._composed.tree
        for key in place:
            settings = settings[key]
        given = [f"{name}={brief(value)}" for name, value in (settings.get("init_args") or {}).items()]
        origin = self._composed.origin((*place, "class_path"))
        return UserError(
            f"{'.'.join(place)}: {cls.__name__} refused its arguments: {first_line(error)} ({type(error).__name__}); "
            f"given: {', '.join(given) or 'none'}{origin}; --traceback shows where"
        )

    def _section_of(self, cls: type | None) -> tuple[str, ...] | None:
        """The key path at which the config names a class."""
        for path, base in self._sections():
            settings: Any = self._composed.tree
            for key in path:
                settings = settings.get(key) or {}
            if settings and explain.find_class(settings["class_path"], base) is cls:
                return path
        return None

    def _sections(self) -> list[tuple[tuple[str, ...], type]]:
        names = self._composed.tree.get("techniques") or {}
        paths: list[tuple[str, ...]] = [("model",), ("data",), *(("techniques", name) for name in names)]
        return [(path, BASES[path[0]]) for path in paths if self._composed.tree.get(path[0])]

    def _locate(self, message: str, raised_in: tuple[str, ...] | None = None) -> str:
        """Puts the section before an argument's name: ``source: …`` becomes ``data.source: … (file:line)``."""
        name = message.partition(":")[0]
        found = []
        for path, base in self._sections():
            settings: Any = self._composed.tree
            for key in path:
                settings = settings.get(key) or {}
            cls = explain.find_class(settings["class_path"], base) if settings else object
            if name.split(".")[0] in explain.argument_defaults(cls):
                found.append(path)
        if raised_in in found:
            found = [raised_in]
        if len(found) != 1:
            return message
        place = self._composed.origin((*found[0], "init_args", *name.split(".")))
        return f"{'.'.join(found[0])}.{message}{place}"

    @property
    def settings(self) -> Namespace:
        """The typed config of the subcommand."""
        return self.config[self._chosen]

    def text(self) -> str:
        """The typed config as YAML that runs again: the subcommand's own arguments and the run's name left out."""
        if self._text is None:
            self._text = self._as_yaml()
        return self._text

    def _dump_config(self) -> None:
        """Lightning's name for the typed config as plain data, of which it makes the hyper-parameters."""
        self.config_dump = self._as_data()

    def _as_data(self) -> dict[str, Any]:
        """The typed config as plain data."""
        if self._tree is None:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=_RENAMED)
                text = self._subcommand_parsers[self._chosen].dump(  # parsing has checked it
                    self.settings, skip_none=False, skip_check=True, skip_link_targets=False, format="yaml12"
                )
            self._tree = yaml12.load(text)
        return copy.deepcopy(self._tree)

    def _as_yaml(self) -> str:
        tree = self._as_data()
        for key in ("config", *{name for names in SUBCOMMAND_KEYS.values() for name in names}):
            tree.pop(key, None)
        tree["run"]["name"] = None
        order = ("seed_everything", "model", "data", "techniques", "trainer", "run", "wandb")
        tree["techniques"] = tree.get("techniques") or {}
        return yaml12.dump({key: tree[key] for key in order if key in tree})

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Builds the Trainer with the techniques in order, the loggers and the run's own callbacks.

        Raises:
            UserError: the Trainer does not accept a setting, or processes of torchrun would each train alone.
        """
        given = dict(self._get(self.config_init, "trainer", default={}), **kwargs)
        techniques = self._get(self.config_init, "techniques", default=None) or {}
        callbacks = given.pop("callbacks", None) or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        techniques = vars(techniques) if isinstance(techniques, Namespace) else techniques
        for name, technique in techniques.items():
            if isinstance(technique, Technique):
                technique.name = name
        callbacks = [*callbacks, *techniques.values()]
        identity = self._identity
        if identity is not None and not given.get("fast_dev_run"):
            config: RunConfig = self._get(self.config_init, "run")
            keep = given.get("enable_checkpointing") is not False
            logger = given.pop("logger", None)
            more = logger if isinstance(logger, list) else [logger] if logger not in (None, True, False) else []
            hyperparameters = yaml12.load(self.text())
            wandb_config = self._get(self.config_init, "wandb")
            given["logger"] = [*own_loggers(identity, wandb_config, hyperparameters, self._chosen), *more]
            callbacks = [
                *own_callbacks(
                    identity,
                    config,
                    self.text(),
                    self._chosen,
                    keep,
                    hyperparameters["seed_everything"],
                    self._start,
                ),
                *callbacks,
            ]
            given["plugins"] = own_plugins(given.get("plugins"))
            given["default_root_dir"] = str(identity.folder)
        elif given.get("fast_dev_run"):
            given["logger"] = False
            callbacks = [Editing(self._start), EndsAtOnce(), *callbacks]
        given["enable_checkpointing"] = any(isinstance(callback, Checkpoint) for callback in callbacks)
        if given.get("enable_progress_bar") is not False:
            from framework.tracking.progress import Progress

            callbacks.append(Progress())
        from framework.data import DataModule

        if isinstance(self.datamodule, DataModule):
            given["use_distributed_sampler"] = False  # its loaders shard by themselves, exactly over a resume
        if given.get("profiler") is None:
            given["profiler"] = NoProfiler()
        whole, number = (
            ("accumulate_grad_batches", "check_val_every_n_epoch"),
            ("gradient_clip_val", "log_every_n_steps"),
        )
        at_least(1, **{f"trainer.{name}": given.get(name) for name in whole})  # Lightning fails on these in mid-run
        at_least(0, **{f"trainer.{name}": given.get(name) for name in number})
        try:
            trainer = pl.Trainer(**given, callbacks=callbacks)
        except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"trainer: {first_line(error)}") from error
        _refuse_strangers(trainer)
        watch_ranks(trainer)
        return trainer


def _check_trainer(given: Mapping[str, Any]) -> None:
    """Refuses numbers that Lightning accepts, and fails on in the middle of a run or ignores."""
    at_least(
        1, **{f"trainer.{name}": given.get(name) for name in ("accumulate_grad_batches", "check_val_every_n_epoch")}
    )
    at_least(0, **{f"trainer.{name}": given.get(name) for name in ("gradient_clip_val", "log_every_n_steps")})


def _refuse_strangers(trainer: pl.Trainer) -> None:
    """Raises where torchrun's processes would not know of each other, and each would train a model of its own."""
    if not TorchElasticEnvironment.detect() or trainer.world_size > 1:
        return
    started, here = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if started > 1:
        raise UserError(
            f"trainer: torchrun started {started} processes, and each would train alone; add --trainer.strategy=ddp "
            f"--trainer.devices={here} --trainer.num_nodes={max(1, started // here)}"
        )


class Typed(CommandLine):
    """The same, typed but not instantiated."""

    def _set_seed(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        """Nothing is built."""


def instantiate(base: type, settings: dict[str, Any], where: str) -> Any:
    """Builds one class of a config: ``class_path`` and ``init_args``, typed.

    Args:
        base: The class, or a base of it.
        settings: ``class_path`` and ``init_args``.
        where: Where they stand, for messages.

    Raises:
        UserError: an argument is not accepted; the message begins with ``where``.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_RENAMED)
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(base, "model")
        try:
            typed = parser.parse_object({"model": settings})
        except (ArgumentError, TypeError, ValueError, KeyError) as error:
            raise UserError(f"{where}: {first_line(error)}") from error
        return parser.instantiate_classes(typed).model


def prepare(request: Request, subcommand: str) -> tuple[Composed, Path | None]:
    """Composes, finds the checkpoint, takes its config where none was given, and interpolates.

    Returns:
        The composed config, ready to be typed, and the checkpoint file.

    Raises:
        UserError: any mistake that can be known before the classes are typed, all of them together.
    """
    techniques = catalogue.techniques()
    composed = compose(request, subcommand, techniques)
    checkpoint: Path | None = None
    given = composed.tree.get("ckpt_path")
    if given is not None and not composed.incomplete:
        settings = composed.tree.get("run") or {}
        place = RunConfig(root=str(settings.get("root", "runs")))
        try:
            checkpoint = run.find_checkpoint(str(given), place, settings.get("method") or composed.method)
            if "class_path" not in (composed.tree.get("model") or {}):
                folder = run.folder_of(checkpoint)
                if folder is None or not (folder / "config.yaml").is_file():
                    raise UserError(f"no --config is given, and no config.yaml lies beside {checkpoint}")
                saved = read_command_line(["--config", str(folder / "config.yaml")])
                request = Request(layers=[*saved.layers, *request.layers], files=request.files, method=request.method)
                composed = compose(request, subcommand, techniques)
            composed.tree["ckpt_path"] = str(checkpoint)
        except UserError as error:
            composed.problems.append(str(error))
            composed.incomplete = True
    elif given is None and "model" not in composed.tree and not composed.problems:
        from framework.paths import shipped_configs

        if request.files:
            files = ", ".join(map(str, request.files))
            raise UserError(f"{files}: no model; give a class path, as model or as --model=package.module.Class")
        names = [name for name in shipped_configs() if not name.startswith(("callbacks/", "sweeps/"))]
        raise UserError(f"--config is missing; shipped configs: {', '.join(names)}")
    settings = composed.tree.setdefault("run", {})
    if isinstance(settings, dict) and settings.get("method") is None and composed.method:
        settings["method"] = composed.method
    interpolate(composed, lambda: _class_defaults(composed))
    _order_techniques(composed)
    if composed.problems:
        problems = [*composed.problems, *explain.explain(composed, BASES, {**GROUPS, "trainer": pl.Trainer})]
        raise UserError("\n".join(dict.fromkeys(problems)))
    return composed, checkpoint


def _order_techniques(composed: Composed) -> None:
    """Puts the techniques in the order of application; notes those that cannot be combined."""
    techniques = composed.tree.get("techniques") or {}
    classes = {}
    for name, settings in techniques.items():
        try:
            classes[name] = explain.find_class((settings or {}).get("class_path"), Callback)
        except (explain.UnknownClass, AttributeError):
            return  # what is wrong with it will be said with the types
    try:
        composed.tree["techniques"] = {name: techniques[name] for name in order.resolve(classes)}
    except UserError as error:
        composed.problems.append(str(error))


def _class_defaults(composed: Composed) -> dict[str, Any]:
    """What every configured class takes for the arguments that nobody gave."""
    tree: dict[str, Any] = {"seed_everything": 0}
    sections: list[tuple[tuple[str, ...], str]] = [(("model",), "model"), (("data",), "data")]
    sections += [(("techniques", name), "techniques") for name in composed.tree.get("techniques") or {}]
    for path, base in sections:
        settings: Any = composed.tree
        for key in path:
            settings = (settings or {}).get(key)
        try:
            cls = explain.find_class((settings or {}).get("class_path"), BASES[base])
        except explain.UnknownClass:
            continue
        place = tree
        for key in path:
            place = place.setdefault(key, {})
        place["init_args"] = explain.argument_defaults(cls)
    for section, cls in {**GROUPS, "trainer": pl.Trainer}.items():
        tree[section] = explain.argument_defaults(cls)
    return _plain(tree)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def report_differences(checkpoint: Mapping[str, Any], settings: Namespace) -> list[str]:
    """Lines saying where a checkpoint's hyper-parameters differ from the configured ones, which hold."""
    cls = explain.find_class(settings["model"]["class_path"], pl.LightningModule)
    skipped = getattr(cls, "start_only", ())
    saved = {
        k: v for k, v in checkpoint.get("hyper_parameters", {}).items() if not k.startswith("_") and k not in skipped
    }
    arguments = settings.get("model", Namespace()).get("init_args") or Namespace()
    configured = arguments.as_dict() if isinstance(arguments, Namespace) else dict(arguments)
    lines: list[str] = []

    def compare(path: str, old: Any, new: Any) -> None:
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            for key in old.keys() & new.keys():
                compare(f"{path}.{key}", old[key], new[key])
        elif _comparable(old) != _comparable(new):
            lines.append(
                f"{path}: the checkpoint has {run.describe(old)}, the config {run.describe(new)}; the config's is used"
            )

    for key in saved.keys() & configured.keys():
        compare(f"model.{key}", saved[key], configured[key])
    return sorted(lines)


def _comparable(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_comparable(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None | Mapping) else str(value)
