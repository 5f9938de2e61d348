"""What can go wrong with a config: mutations of a tree or of its text, drawn from a seed, each with a readable name."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import Callback

from abuse.bases import Base
from framework.config import explain, yaml12
from framework.optim import OptimizerConfig, ScheduleConfig

KeyPath = tuple[str, ...]
KINDS = {"model": LightningModule, "data": LightningDataModule, "techniques": Callback}
# trainer settings that are worth a mistake; devices, nodes and strategies are for other tests: they start processes
TRAINER = {
    "max_epochs": 3, "max_steps": -1, "gradient_clip_val": 1.0, "accumulate_grad_batches": 1, "precision": "32-true",
    "val_check_interval": 1.0, "limit_train_batches": 1.0, "limit_val_batches": 1.0, "num_sanity_val_steps": 2,
    "log_every_n_steps": 10, "check_val_every_n_epoch": 1, "gradient_clip_algorithm": "norm",
}  # fmt: skip
RUN = {"monitor": "val/loss", "mode": "min", "save_top_k": 1, "resume_every_n_seconds": 30.0}
GIVEN = (
    "fast_dev_run",
    "accelerator",
    "devices",
    "num_nodes",
    "strategy",
)  # what the command line has, or is left alone
PATHS = ("path", "file", "folder", "checkpoint", "root", "tokenizer", "retention")


@dataclass(frozen=True)
class Mutation:
    """One mistake in one config.

    Attributes:
        id: Config, number, kind and key.
        base: The config.
        kind: What was done.
        text: The mutated file.
        overrides: What is typed beside it.
        names: Texts of which one has to stand in the message, where it is refused.
        large: Whether it asks for a valid size that no machine has, so that it may be slow.
    """

    id: str
    base: Base
    kind: str
    text: bytes
    overrides: tuple[str, ...]
    names: tuple[str, ...]
    large: bool = False


@dataclass(frozen=True)
class Site:
    """A setting that can be mutated: where it stands, what it is (its default, where the config does not give it)."""

    path: KeyPath
    value: Any
    given: bool

    @property
    def leaf(self) -> str:
        return self.path[-1]


def spelt(path: KeyPath) -> str:
    """A key path as messages and people write it."""
    return ".".join(key for key in path if key != "init_args")


def put(tree: dict[str, Any], path: KeyPath, value: Any) -> None:
    for key in path[:-1]:
        inner = tree.get(key)
        if not isinstance(inner, dict):
            inner = tree[key] = {}
        tree = inner
    tree[path[-1]] = value


def take(tree: dict[str, Any], path: KeyPath) -> Any:
    for key in path[:-1]:
        tree = tree[key]
    return tree.pop(path[-1])


def look(tree: Mapping[str, Any], path: KeyPath) -> Any:
    value: Any = tree
    for key in path:
        value = value[key]
    return value


@cache
def _defaults(class_path: str, section: str) -> dict[str, Any]:
    return explain.argument_defaults(explain.find_class(class_path, KINDS[section]))


def sites(base: Base) -> list[Site]:
    """Every setting of the sections that a mutation may touch: those given, and the classes' other arguments."""
    found: list[Site] = []

    def walk(path: KeyPath, value: Any) -> None:
        found.append(Site(path, value, True))
        if isinstance(value, dict):
            for key, item in value.items():
                walk((*path, str(key)), item)

    for place in base.places:
        settings = look(base.tree, place)
        plain = {"trainer": TRAINER, "run": RUN}.get(place[0])
        if plain is not None:
            for key, value in settings.items():
                if key not in GIVEN:
                    walk((*place, key), value)
            found += [Site((*place, key), value, False) for key, value in plain.items() if key not in settings]
            continue
        given = settings.get("init_args") or {}
        for key, value in given.items():
            walk((*place, "init_args", key), value)
        for key, value in _defaults(settings["class_path"], place[0]).items():
            inner = {"optimizer": OptimizerConfig, "schedule": ScheduleConfig}.get(key) if place == ("model",) else None
            if inner is not None:
                fields = vars(inner())
                present = given.get(key) or {}
                found += [Site((*place, "init_args", key, f), v, False) for f, v in fields.items() if f not in present]
            elif key not in given:
                found.append(Site((*place, "init_args", key), value, False))
    return found


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_text(value: Any) -> bool:
    return isinstance(value, str) and "${" not in value


def is_path(site: Site) -> bool:
    return any(word in site.leaf for word in PATHS)


class Draw:
    """Draws one mutation of a kind, or none where the config has nothing that it applies to."""

    def __init__(self, base: Base, rng: random.Random) -> None:
        self.base, self.rng = base, rng
        self.sites = sites(base)
        self.classes = [place for place in base.places if place[0] in KINDS]

    def site(self, accepts: Callable[[Site], bool]) -> Site | None:
        suited = [site for site in self.sites if accepts(site)]
        own = [site for site in suited if site.path[0] in KINDS and not {"optimizer", "schedule"} & set(site.path)]
        if own and self.rng.random() < 0.75:  # what all configs share has its turn often enough
            suited = own
        return self.rng.choice(suited) if suited else None

    # Each returns (path, new value, names, large) or None; `DROP` takes the key out.

    def deleted(self):
        site = self.site(lambda s: s.given and len(s.path) > 1)
        pick = self.rng.random()
        if pick < 0.1 or site is None:
            place = self.rng.choice(self.base.places)
            return place, DROP, (place[-1], "class_path"), True
        if pick < 0.2 and self.classes:
            place = self.rng.choice(self.classes)
            return (*place, "class_path"), DROP, ("class_path", spelt(place)), False
        return site.path, DROP, (site.leaf, spelt(site.path[:-1])), True

    def wrong_type(self):
        site = self.site(lambda s: s.value is not None)
        if site is None:
            return None
        if isinstance(site.value, bool):
            options = ["maybe", [True], {"yes": 1}, 17, 0.5]
        elif is_number(site.value):
            options = ["twelve", [1, 2], {"a": 1}, True, "1,5", "0x", "1e"]
        elif isinstance(site.value, str):
            options = [7, 1.5, ["a", "b"], {"a": {"b": 1}}, True]
        elif isinstance(site.value, dict):
            options = ["text", 3, [1], True]
        else:
            options = ["text", 3, {"a": 1}, [[[1]]], ["a", None], [{}]]
        return site.path, self.rng.choice(options), (site.leaf,), False

    def misspelt_key(self):
        site = self.site(lambda s: s.given and len(s.leaf) > 2)
        if site is None:
            return None
        new = self._misspell(site.leaf)
        return site.path, Renamed(new), (new, site.leaf), True

    def misspelt_class(self):
        if not self.classes:
            return None
        place = self.rng.choice(self.classes)
        parts = look(self.base.tree, place)["class_path"].split(".")
        which = self.rng.choice([-1, -1, -2, 0])
        parts[which] = self._misspell(parts[which])
        return (*place, "class_path"), ".".join(parts), (spelt(place),), False

    def misspelt_word(self):
        site = self.site(lambda s: is_text(s.value) and len(s.value) > 2 and not is_path(s) and s.leaf != "class_path")
        if site is None:
            return None
        new = self._misspell(site.value)
        return site.path, new, (site.leaf, new), False

    def huge(self):
        site = self._numeric()
        if site is None:
            return None
        value = self.rng.choice([10**7, 10**9, 10**12, 2**31, 2**63, 10**30, 1e30, 1e308, 10**400])
        return site.path, value, (site.leaf, "memory"), True

    def negative(self):
        site = self._numeric()
        return site and (site.path, self.rng.choice([-1, -1, -2, -(10**9), -0.5, -1e-300]), (site.leaf,), True)

    def zero(self):
        site = self._numeric()
        return site and (site.path, self.rng.choice([0, 0, 0.0, -0.0]), (site.leaf,), True)

    def not_finite(self):
        site = self._numeric()
        return site and (site.path, self.rng.choice([math.nan, math.inf, -math.inf]), (site.leaf, "memory"), True)

    def null(self):
        site = self.site(lambda s: True)
        return site and (site.path, None, (site.leaf, spelt(site.path[:-1])), True)

    def empty(self):
        site = self.site(lambda s: True)
        return site and (site.path, self.rng.choice([[], {}, ""]), (site.leaf,), True)

    def wrong_class(self):
        if not self.classes:
            return None
        place = self.rng.choice(self.classes)
        kinds = {
            "model": "modules.sequence.s4d.S4DClassifier",
            "data": "datamodules.sequence.images.SequentialImages",
            "techniques": "callbacks.lora.LoRA",
        }
        others = [cls for kind, cls in kinds.items() if kind != place[0]]
        others += ["nowhere.to.be.Found", "framework.paths.find_config", "torch.nn.Linear", "os.path", "os", "", "..",
                   "framework.no_module.Class", "a b.c", "1.2.3", ".relative.Class", "framework.errors.UserError"]  # fmt: skip
        return (*place, "class_path"), self.rng.choice(others), (spelt(place),), False

    def interpolation(self):
        site = self.site(lambda s: True)
        other = self.site(lambda s: s.given)
        if site is None or other is None:
            return None
        whole = ".".join(site.path)
        options = [f"${{{whole}}}", "${model.init_args.nothing}", "${data.nothing_at_all}", "${nowhere}", "${", "${}",
                   f"${{{'.'.join(other.path)}}}", f"${{{site.path[0]}}}", "${unknown_resolver:1}", "a ${model} b",
                   "${oc.env:NO_SUCH_VARIABLE}", "${${model.class_path}}", "${.x}", "${model.init_args.a b}"]  # fmt: skip
        return site.path, self.rng.choice(options), (site.leaf,), True

    def strange_text(self):
        site = self.site(lambda s: isinstance(s.value, str) or s.value is None)
        if site is None:
            return None
        options = [
            "größe → 日本",
            "🦜",
            "x" * 100_000,
            "a\nb: c",
            "\x07bell",
            "../../..",
            "-1",
            " ",
            "--x",
            "'",
            "%s{}",
            "C:\\x",
        ]
        return site.path, self.rng.choice(options), (site.leaf,), True

    def wrong_section(self):
        site = self.site(lambda s: s.given and s.path[-2] == "init_args")
        if site is None:
            return None
        options = [("trainer",), ("run",), ("wandb",), (), ("model", "init_args"), ("data", "init_args"), ("model",)]
        target = self.rng.choice([o for o in options if (*o, site.leaf) != site.path])
        return site.path, Moved((*target, site.leaf)), (site.leaf,), True

    def path(self):
        site = self.site(lambda s: is_path(s))
        if site is None:
            return None
        options = [
            "nowhere/at/all",
            ".",
            "said.txt",
            "/dev/null",
            "config.yaml",
            "x" * 300,
            "~/no_such_folder",
            "empty",
        ]
        return site.path, self.rng.choice(options), (site.leaf, "nowhere", "ckpt"), True

    def damaged(self):
        text = yaml12.dump(self.base.tree)
        lines = text.split("\n")
        line = self.rng.randrange(len(lines) - 1)
        rng = self.rng
        options: dict[str, Callable[[], bytes]] = {
            "tab": lambda: "\n".join([*lines[:line], "\t" + lines[line].lstrip(), *lines[line + 1 :]]).encode(),
            "half": lambda: text[: rng.randrange(1, len(text))].encode(),
            "twice": lambda: "\n".join([*lines[: line + 1], *lines[line:]]).encode(),
            "latin1": lambda: (text + "# größe\n").encode("latin-1"),
            "bytes": lambda: bytes(rng.randrange(256) for _ in range(200)),
            "nul": lambda: (text[:50] + "\0" + text[50:]).encode(),
            "bracket": lambda: "\n".join([*lines[: line + 1], "x: [1, 2", *lines[line + 1 :]]).encode(),
            "colon": lambda: "\n".join([*lines[:line], lines[line] + ": y: z", *lines[line + 1 :]]).encode(),
            "alias": lambda: (text + "extra: *nothing\n").encode(),
            "itself": lambda: ("model: &m\n  a: *m\n" + text).encode(),
            "deep": lambda: ("extra: " + "[" * 3000).encode(),
            "tag": lambda: (text + "extra: !!python/object/apply:os.system [true]\n").encode(),
            "utf16": lambda: text.encode("utf-16"),
            "empty": lambda: b"",
            "list": lambda: b"- a\n- b\n",
            "bom": lambda: b"\xef\xbb\xbf" + text.encode(),
            "crlf": lambda: text.replace("\n", "\r\n").encode(),
            "two": lambda: (text + "---\n" + text).encode(),
            "number": lambda: b"3\n",
            "bomb": lambda: ("a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
                f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
            )).encode(),
            "longkey": lambda: (f"? {'k' * 5000}\n: 1\n" + text).encode(),
            "intkey": lambda: (text + "3: 4\nnull: 5\n[a, b]: 1\n").encode(),
        }  # fmt: skip
        name = rng.choice(sorted(options))
        return name, options[name]()

    def _numeric(self) -> Site | None:
        return self.site(
            lambda s: (
                is_number(s.value)
                or (isinstance(s.value, list) and bool(s.value) and is_number(s.value[0]))
                or (isinstance(s.value, str) and "${" in s.value)
            )
        )

    def _misspell(self, word: str) -> str:
        for _ in range(20):
            at = self.rng.randrange(len(word))
            new = self.rng.choice(
                [word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:], word[: at] + "x" + word[at + 1 :],
                 word + "s", word.swapcase(), word.replace("_", "-") if "_" in word else word + "_"]
            )  # fmt: skip
            if new and new != word:
                return new
        return word + "x"


DROP = object()


@dataclass(frozen=True)
class Renamed:
    name: str


@dataclass(frozen=True)
class Moved:
    path: KeyPath


KINDS_OF_MISTAKE = (
    "deleted", "wrong_type", "misspelt_key", "misspelt_class", "misspelt_word", "huge", "negative", "zero", "not_finite",
    "null", "empty", "wrong_class", "interpolation", "strange_text", "wrong_section", "path", "damaged",
)  # fmt: skip


def _override(path: KeyPath, value: Any) -> str:
    if isinstance(value, list | dict):
        text = json.dumps(value)
    else:
        text = "null" if value is None else "true" if value is True else "false" if value is False else _plain(value)
    return f"--{spelt(path)}={text}"


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return ".nan" if value != value else repr(value).replace("inf", ".inf")
    return str(value)


def mutation(base: Base, number: int, kind: str, seed: int) -> Mutation | None:
    """The mutation of this kind with this number of a config; ``None`` where there is nothing to do it to."""
    rng = random.Random(f"{seed}/{base.name}/{number}/{kind}")
    draw = Draw(base, rng)
    name = f"{base.name}-{number:02d}-{kind}"
    if kind == "damaged":
        how, text = draw.damaged()
        return Mutation(f"{name}-{how}", base, kind, text, (), ("config.yaml",))
    drawn = getattr(draw, kind)()
    if not drawn:
        return None
    path, value, names, large = drawn
    tree = copy.deepcopy(base.tree)
    overrides: list[str] = []
    typed = rng.random() < 0.4 and value is not DROP and not isinstance(value, Moved) and "\0" not in str(value)
    if isinstance(value, list) and "[]" not in str(value) and kind not in ("wrong_type", "empty"):
        value = [value]
    given = look_or(tree, path)
    if kind in ("huge", "negative", "zero", "not_finite") and isinstance(given, list) and rng.random() < 0.7:
        value = [*given[:-1], value]
    if value is DROP:
        take(tree, path)
    elif isinstance(value, Moved):
        put(tree, value.path, take(tree, path))
    elif isinstance(value, Renamed):
        new = (*path[:-1], value.name)
        old = take(tree, path)
        if typed and not isinstance(old, dict):
            overrides.append(_override(new, old))
        else:
            put(tree, new, old)
    elif typed:
        overrides.append(_override(path, value))
    else:
        put(tree, path, value)
    if not isinstance(value, Moved | Renamed) and value is not DROP and len(str(value)) > 3:
        names = (*names, str(value)[:50])  # a message may show what was given instead
    key = spelt(path)
    names = (*names, *followers(base.tree, key))
    return Mutation(
        f"{name}-{key}", base, kind, yaml12.dump(tree).encode("utf-8", "surrogatepass"), tuple(overrides), names, large
    )


def followers(tree: Any, key: str) -> Iterator[str]:
    """The settings that take their value from this one by ``${...}``."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from followers(value, key)
        elif isinstance(value, str) and f"{{{key}}}" in value.replace(".init_args", ""):
            yield name


def look_or(tree: Any, path: KeyPath) -> Any:
    try:
        return look(tree, path)
    except (KeyError, TypeError):
        return None


def mutations(all_bases: list[Base], each: int, seed: int) -> list[Mutation]:
    """``each`` mutations of every config; the kinds go round, so that all meet configs of all fields."""
    found = []
    for place, base in enumerate(all_bases):
        count, turn = 0, 0
        while count < each:
            kind = KINDS_OF_MISTAKE[(place * 5 + turn) % len(KINDS_OF_MISTAKE)]
            turn += 1
            drawn = mutation(base, turn, kind, seed)
            if drawn is not None:
                found.append(drawn)
                count += 1
    return found
