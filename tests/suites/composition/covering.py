"""Few cells in which everything meets everything: each two techniques, each technique and each architecture, each of
them and each way to train (workers, accumulation, an end within an epoch, where it is killed, ranks, precision), each
two ways; but loader workers and ranks with each technique alone, for with each architecture they are dear. What breaks a
run is mostly one thing or two that meet; all subsets and all else are `make matrix`'s.

The cells are found greedily and cheaply: candidates grow from a pair that is missing yet, and the one that brings most
missing pairs for what it costs is taken. The choice is fixed: it depends on nothing but the lists of techniques,
architectures and ways.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
import random
from dataclasses import replace

from composition.cells import HOOKS, Cell
from composition.probes import ARCHITECTURES, SPECIAL
from composition.rules import RULES
from composition.settings import CORE, OBSERVERS, OTHERS

Feature = tuple[str, object]

TECHNIQUES = (*CORE, *OTHERS, *OBSERVERS)
ALL = (*ARCHITECTURES, *SPECIAL)
WAYS: dict[str, tuple[object, ...]] = {
    "workers": (0, 1),  # it is forked in every epoch of every run, which costs more than the training
    "accumulate": (1, 2),
    "short": (False, True),
    "hook": HOOKS,
    "ranks": (1, 2),
    "precision": ("32-true", "bf16-mixed"),
}
APART = ("workers", "ranks")  # from the model: they are dear, and know it least; the matrix has them with each
MOST = 8  # techniques in a cell: with more, what failed would be hard to find
CANDIDATES = 5

# Processor seconds on one machine, to weigh the cells by: of two that bring the same, the cheaper is taken.
_COST = {"resnet": 2.2, "s4d": 1.6, "transformer": 1.6, "vit": 1.4}
_COST |= {"laziness": 1.5, "mixture_growth": 0.5, "input_gradient_penalty": 0.5, "grok_align": 0.5}
_COST |= {"dependency_sparsity": 0.3, "identifiability": 0.3, "dp_sgd": 0.3}
_WORKERS, _RANKS, _OBSERVED = 1.5, 3.0, 0.5


def features(cell: Cell) -> list[Feature]:
    """What meets in a cell."""
    ways = [(name, getattr(cell, name)) for name in WAYS]
    return [("architecture", cell.architecture), *(("technique", name) for name in cell.techniques), *ways]


def pairs(cell: Cell) -> int:
    """The pairs that meet in a cell, as a set of bits."""
    numbers = sorted(_number(feature) for feature in features(cell))
    found = 0
    for i, first in enumerate(numbers):
        for second in numbers[i + 1 :]:
            found |= _bit(first, second)
    return found


def _bit(first: int, second: int) -> int:
    return 1 << (second * (second - 1) // 2 + first)


_NUMBERS: dict[Feature, int] = {}


def _number(feature: Feature) -> int:
    return _NUMBERS.setdefault(feature, len(_NUMBERS))


def runs(cell: Cell) -> bool:
    """Whether a cell trains, if only by a setting that insists.

    Two ranks die together in a hook that both reach; rank 0 alone saves, and the other would wait for it.
    """
    refused = cell.rule is not None and not cell.rule.lifted_by
    refused = refused or ("dp_sgd" in cell.techniques and cell.accumulate > 1)  # its own test says why
    return not refused and not (cell.ranks == 2 and cell.hook in ("on_validation_start", "save"))


def cost(cell: Cell) -> float:
    """About what a cell takes."""
    total = _COST.get(cell.architecture, 1.1) + sum(_COST.get(name, 0.1) for name in cell.techniques)
    total += _OBSERVED * bool(set(cell.techniques) & set(OBSERVERS))
    return total + _WORKERS * (cell.workers > 0) + _RANKS * (cell.ranks - 1)


@functools.cache
def wanted() -> int:
    """Every pair that some cell has."""
    found = 0
    names = [(), *((name,) for name in TECHNIQUES), *itertools.combinations(TECHNIQUES, 2)]
    for cell in filter(runs, (Cell(architecture, some) for some in names for architecture in ALL)):
        found |= pairs(cell)
    apart = [((way, value), ("architecture", name)) for way in APART for value in WAYS[way] for name in ALL]
    ways = [(name, value) for name, values in WAYS.items() for value in values]
    for (name, value), (other, second) in itertools.product(ways, ways):
        if name != other and runs(Cell("mlp", (), **{name: value, other: second})):  # type: ignore[arg-type]
            for cell in filter(runs, (Cell(a, t) for a in ALL for t in names[: len(TECHNIQUES) + 1])):
                trained = replace(cell, **{name: value, other: second})  # type: ignore[arg-type]
                found |= pairs(trained) if runs(trained) else 0
    for pair in apart:
        found &= ~_bit(*sorted(map(_number, pair)))
    return found


def covering() -> list[Cell]:
    """The cells: each technique alone, then what brings the missing pairs."""
    generator = random.Random(0)
    left, cells = wanted(), []
    for name in TECHNIQUES:
        alone = filter(runs, (Cell(architecture, (name,)) for architecture in ALL))
        trained = [_in_other_ways(cell, left, generator) for cell in alone]
        cells.append(max(trained, key=lambda cell: _worth(cell, left)))
        left &= ~pairs(cells[-1])
    while left:
        grown = [_grown(left, generator) for _ in range(CANDIDATES)]
        cells.append(max(grown, key=lambda cell: _worth(cell, left)))
        left &= ~pairs(cells[-1])
    for cell in sorted(cells[len(TECHNIQUES) :], key=cost, reverse=True):
        others = [other for other in cells if other is not cell]
        if not wanted() & ~functools.reduce(operator.or_, map(pairs, others)):
            cells = others  # what it was taken for others have brought since
    return cells


def refused() -> list[Cell]:
    """One cell for each rule and technique or pair of techniques that it refuses for good, on each architecture."""
    alone = [Cell(a, (name,)) for name in TECHNIQUES for a in ALL]
    no = {(cell.rule.name, cell.architecture, cell.techniques): cell for cell in alone if cell.rule}
    names = {rule.name for rule in RULES} - {name for name, _, _ in no}
    for cell in (Cell(a, two) for two in itertools.combinations(TECHNIQUES, 2) for a in ALL):
        if cell.rule and not cell.rule.lifted_by and cell.rule.name in names:
            no.setdefault((cell.rule.name, "", cell.techniques), cell)
    return [*no.values()]


def _worth(cell: Cell, left: int) -> float:
    return (pairs(cell) & left).bit_count() / cost(cell)


def _grown(left: int, generator: random.Random) -> Cell:
    """A cell that has one of the pairs ``left``, and as many more of them as it finds on its way."""
    cell = _cell_with(generator.choice([i for i in range(left.bit_length()) if left >> i & 1]), generator)
    while len(cell.techniques) < MOST:
        more = [replace(cell, techniques=(*cell.techniques, t)) for t in TECHNIQUES if t not in cell.techniques]
        generator.shuffle(more)
        best = max(filter(runs, more), key=lambda c: _worth(c, left), default=cell)
        if _worth(best, left) <= _worth(cell, left):
            break
        cell = best
    order = [*cell.techniques]
    generator.shuffle(order)
    return _in_other_ways(replace(cell, techniques=tuple(order)), left, generator)


def _in_other_ways(cell: Cell, left: int, generator: random.Random) -> Cell:
    """A cell of the same techniques, trained in the ways that bring most."""
    for name in generator.sample([*WAYS], len(WAYS)):
        others = [replace(cell, **{name: value}) for value in WAYS[name]]  # type: ignore[arg-type]
        cell = max(filter(runs, [cell, *others]), key=lambda c: _worth(c, left))
    return cell


def _cell_with(pair: int, generator: random.Random) -> Cell:
    """A cell that has the pair of a bit."""
    second = (math.isqrt(8 * pair + 1) + 1) // 2
    by_number = {number: feature for feature, number in _NUMBERS.items()}
    given = [by_number[second], by_number[pair - second * (second - 1) // 2]]
    techniques = tuple(str(value) for name, value in given if name == "technique")
    ways = {name: value for name, value in given if name in WAYS}
    architectures = [str(value) for name, value in given if name == "architecture"] or generator.sample(ALL, len(ALL))
    cells = (Cell(architecture, techniques, **ways) for architecture in architectures)  # type: ignore[arg-type]
    return next(filter(runs, cells))
