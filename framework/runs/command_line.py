"""The type-checked command line: LightningCLI on a composed config instead of ``sys.argv``."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jsonargparse
import lightning.pytorch as pl
from jsonargparse import ArgumentError, Namespace
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, _InstantiatorFn
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from framework.config import explain, saving, values, yaml12
from framework.config.compose import SUBCOMMAND_KEYS, Composed
from framework.config.instantiate import RENAMED
from framework.errors import UserError
from framework.library_errors import explained, first_line
from framework.readers.unpacking import set_max_unpacked
from framework.runs.folder import Run
from framework.runs.sections import BASES, GROUPS
from framework.runs.trainer import Record, build_trainer
from framework.settings import brief

# What a constructor raises for values that it does not accept; a failed look-up is more likely a bug.
REFUSALS = (TypeError, ValueError, ArithmeticError, RuntimeError, AssertionError, MisconfigurationException)


jsonargparse.set_loader("yaml12", yaml12.load_string, exceptions=(yaml12.YAMLError,))
jsonargparse.set_dumper("yaml12", yaml12.dump)


class CommandLine(LightningCLI):
    """LightningCLI for one subcommand and a composed config: parses and instantiates, but runs nothing.

    Args:
        subcommand: ``fit``, ``validate``, ``test`` or ``predict``.
        composed: The composed config.
        identity: The run's folder and id.
        start: The checkpoint that the run starts from, already read.
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
            warnings.filterwarnings("ignore", message=RENAMED)
            options = {"exit_on_error": False, "parser_mode": "yaml12", "dump_header": []}
            super().__init__(
                save_config_callback=None,
                trainer_defaults={"log_every_n_steps": 10},
                seed_everything_default=0,
                auto_configure_optimizers=False,
                parser_kwargs={**options, subcommand: options},
            )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Returns only the chosen subcommand: building the other parsers takes as much time again."""
        return {self._chosen: LightningCLI.subcommands()[self._chosen]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the run, tracking and technique sections."""
        for section, cls in GROUPS.items():
            parser.add_class_arguments(cls, section)
        for name in self._composed.tree.get("techniques") or {}:
            parser.add_subclass_arguments(Callback, f"techniques.{name}", required=False)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Checks the composed config against the signatures of its classes.

        Raises:
            UserError: a value is not accepted; one message with all mistakes.
        """
        groups = {**GROUPS, "trainer": pl.Trainer}
        unusable = values.unusable(self._composed, BASES, groups)
        try:
            # the outer parser would parse everything again
            settings = self._subcommand_parsers[self._chosen].parse_object(self._composed.tree)
        except (ArgumentError, TypeError, ValueError, KeyError, ArithmeticError) as error:
            problems = [*unusable, *explain.explain(self._composed, BASES, groups)]
            raise UserError("\n".join(problems or [" ".join(str(error).split())[:400]])) from error
        if unusable:
            raise UserError("\n".join(unusable))
        self.config = Namespace(subcommand=self._chosen, **{self._chosen: settings})

    def _parse_ckpt_path(self) -> None:
        """Does nothing: a checkpoint's hyperparameters never override the config; see :func:`report_differences`."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Does nothing: the caller runs the trainer."""

    def _add_instantiators(self) -> None:
        """As in LightningCLI, but keeps a constructor's error, which jsonargparse would report as a wrong type."""
        for key, base in BASES.items():
            self.parser.add_instantiator(self._instantiator(key), base, subclasses=True)
        self.parser.add_instantiator(self._build_other, object, subclasses=True)  # a group of settings, above all

    def _build_other(self, class_type: type, *args: Any, applied_instantiation_links: Any, **kwargs: Any) -> Any:
        try:
            return class_type(*args, **kwargs)
        except UserError as error:
            self._raised = self._raised or (error, class_type)
            raise

    def _instantiator(self, key: str) -> Callable[..., Any]:
        lightnings = _InstantiatorFn(cli=self, key=key)

        def build(class_type: type, *args: Any, applied_instantiation_links: dict[str, Any], **kwargs: Any) -> Any:
            try:
                if key == "techniques":
                    return class_type(*args, **kwargs)
                if self._start is not None:  # files that only a new run needs are replaced by the checkpoint's weights
                    kwargs |= dict.fromkeys(kwargs.keys() & set(getattr(class_type, "start_only", ())))
                return lightnings(class_type, *args, applied_instantiation_links=applied_instantiation_links, **kwargs)
            except Exception as error:
                self._raised = self._raised or (error, class_type)
                raise

        return build

    def instantiate_classes(self) -> None:
        """Builds all objects; adds the section and line to a constructor's :class:`UserError`."""
        try:
            super().instantiate_classes()
        except Exception as error:
            raised, cls = self._raised or (error, None)
            raise (self._mistake(raised, cls) or raised) from (raised if isinstance(raised, UserError) else None)

    def _mistake(self, error: Exception, cls: type | None) -> UserError | None:
        """Returns the user's mistake behind a constructor's ``error``; ``None`` if the error is a bug of ours."""
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
        """Returns the key path at which the config names a class."""
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
        """Adds the section to an argument's name: ``source: …`` becomes ``data.source: … (file:line)``."""
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
        """The type-checked config of the subcommand."""
        return self.config[self._chosen]

    def text(self) -> str:
        """Returns the type-checked config as YAML that runs again, without subcommand arguments and the run's name."""
        if self._text is None:
            self._text = self._as_yaml()
        return self._text

    def _dump_config(self) -> None:
        """Returns the type-checked config as plain data; Lightning calls this and saves it as hyperparameters."""
        self.config_dump = self._as_data()

    def _as_data(self) -> dict[str, Any]:
        """Returns the type-checked config as plain data.

        Raises:
            UserError: see :func:`framework.config.saving.mend`.
        """
        if self._tree is None:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=RENAMED)
                warnings.filterwarnings("ignore", message=rf"(?s)\s*{saving.UNABLE}")  # corrected below
                text = self._subcommand_parsers[self._chosen].dump(  # already checked by parsing
                    self.settings, skip_none=False, skip_check=True, skip_link_targets=False, format="yaml12"
                )
                tree = yaml12.load(text)
                saving.mend(tree, self.settings, self._composed, BASES, {"trainer": pl.Trainer})
            self._tree = tree
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
            UserError: the Trainer does not accept a setting, or torchrun's processes would not train together.
        """
        given = dict(self._get(self.config_init, "trainer", default={}), **kwargs)
        techniques = self._get(self.config_init, "techniques", default=None) or {}
        techniques = vars(techniques) if isinstance(techniques, Namespace) else techniques
        record = None
        if self._identity is not None:
            config, wandb = (self._get(self.config_init, section) for section in GROUPS)
            set_max_unpacked(config.max_unpacked_gib)
            record = Record(self._identity, config, wandb, self.text(), self._chosen)
        return build_trainer(given, techniques, record, self._start)


class Typed(CommandLine):
    """A :class:`CommandLine` that checks types but instantiates nothing."""

    def _set_seed(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        """Does nothing."""
