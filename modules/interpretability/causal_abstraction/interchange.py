"""Interchange interventions on any layer of any network (arXiv 2507.08802, section 2; Geiger et al. 2024).

An :class:`Interchange` is plain data: which layer, which units, which latents belong to which node of the algorithm,
and from which layer the sources are read. :class:`InterchangeModel` carries it out on a frozen network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from framework.editing.names import nothing_matches
from framework.errors import UserError
from framework.settings import at_least
from modules.interpretability.causal_abstraction.maps import AlignmentMap

Partition = tuple[tuple[int, ...], ...]


def contiguous(nodes: int, size: int) -> Partition:
    """Returns blocks of ``size`` latents, one for each node: [0, s), [s, 2s), ….

    Raises:
        UserError: a number is below 1.
    """
    at_least(1, nodes=nodes, size=size)
    return tuple(tuple(range(i * size, (i + 1) * size)) for i in range(nodes))


@dataclass(frozen=True)
class Interchange:
    """Where an intervention is made, and what belongs to which node.

    Attributes:
        layer: Dotted name of the module whose output is changed.
        partition: The latents of each node; no latent has two.
        source_layer: Module whose output is read for sources; ``layer`` if ``None``.
        position: Place in the output: of (B, T, d) one t, negative from the end; of (B, C, H, W) two numbers, row and
            column. ``None`` for the whole output, flattened.
        units: Which numbers there are seen by the map, in this order; ``None`` for all.

    Raises:
        UserError: a layer is no text, or a latent, a place or a unit is no whole number.
    """

    layer: str
    partition: Partition
    source_layer: str | None = None
    position: tuple[int, ...] | None = None
    units: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        names = [self.layer, *([] if self.source_layer is None else [self.source_layer])]
        numbers = {"partition": [latent for block in self.partition for latent in block]}
        numbers |= {"position": [*(self.position or ())], "units": [*(self.units or ())]}
        expected: list[tuple[str, list[Any], type]] = [("layer", [*names], str)]
        expected += [(name, [*found], int) for name, found in numbers.items()]
        for name, found, kind in expected:
            wrong = [value for value in found if type(value) is not kind]
            if wrong:
                raise UserError(f"{name}: {wrong[0]!r} is not accepted; {kind.__name__} expected")

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data, from which :meth:`from_dict` makes the same."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Interchange:
        """Makes one of lists, as JSON holds it."""
        given = dict(values)
        for name in ("position", "units"):
            given[name] = None if given.get(name) is None else tuple(given[name])
        return cls(**{**given, "partition": tuple(map(tuple, given["partition"]))})

    def check(self, features: int) -> None:
        """Checks the partition against a map of ``features`` latents.

        Raises:
            UserError: a latent is not there, or belongs to two nodes; a unit is named twice.
        """
        latents = [latent for block in self.partition for latent in block]
        if not latents or len(set(latents)) < len(latents) or not all(0 <= j < features for j in latents):
            raise UserError(
                f"partition: {len(self.partition)} blocks of {[len(b) for b in self.partition]} latents are not "
                f"accepted; at least one latent, none in two blocks, each from 0 to {features - 1} (features - 1)"
            )
        units = self.units
        if units is not None and (len(units) != features or len(set(units)) < features or min(units) < 0):
            raise UserError(f"units: {len(units)} are named; {features} different ones from 0 on are needed (features)")

    def select(self, output: Tensor) -> Tensor:
        """Returns the activity (B, d) at the place, from a layer's output (B, …).

        Raises:
            UserError: the place or a unit is not there.
        """
        h = self._place(output)
        if self.units is None:
            return h
        if max(self.units) >= h.shape[1]:
            raise UserError(f"units: {max(self.units)} is not there; 0 to {h.shape[1] - 1} are at the place")
        return h[:, list(self.units)]

    def insert(self, output: Tensor, h: Tensor) -> Tensor:
        """Returns a copy of a layer's output (B, …) with ``h`` (B, d) at the place."""
        h = h.to(output.dtype)
        if self.units is not None:
            units = torch.tensor(self.units, device=output.device)
            h = self._place(output).index_copy(1, units, h)
        if self.position is None:
            return h.reshape(output.shape)
        found = output.clone()
        self._place(found)[...] = h
        return found

    def _place(self, output: Tensor) -> Tensor:
        if self.position is None:
            return output.flatten(1)
        try:
            if len(self.position) == 1 and output.ndim == 3:
                return output[:, self.position[0]]
            if len(self.position) == output.ndim - 2 == 2:
                return output[:, :, self.position[0], self.position[1]]
        except IndexError:
            pass
        raise UserError(
            f"position: {list(self.position)} is no place in an output of shape {tuple(output.shape)}; one number for "
            "(B, T, d), two for (B, C, H, W), or null"
        )


class _Read(Exception):
    """Ends a forward pass once the layer was read."""


def first_tensor(output: Any) -> Any:
    """Returns the first tensor of a layer's output, which may be a tuple."""
    while isinstance(output, tuple | list) and output:
        output = output[0]
    return output


def _with_first(output: Any, value: Tensor) -> Any:
    if isinstance(output, tuple | list):
        changed = [_with_first(output[0], value), *output[1:]]
        return output._make(changed) if hasattr(output, "_make") else type(output)(changed)  # a named tuple
    return value


def find_layer(network: nn.Module, layer: str, key: str = "layer") -> nn.Module:
    """Returns a module by its dotted name.

    Args:
        network: The network.
        layer: Dotted name of the module.
        key: The setting with its name, for messages.

    Raises:
        UserError: there is none; the message has the nearest names.
    """
    modules = dict(network.named_modules())
    if layer not in modules or not layer:
        raise nothing_matches(layer, [name for name in modules if name], key)
    return modules[layer]


def read_layer(network: nn.Module, x: Tensor, layer: str, key: str = "layer") -> Tensor:
    """Returns the output of a layer for inputs x (B, …), without the rest of the network.

    Args:
        network: The network.
        x: Its inputs.
        layer: Dotted name of the module.
        key: The setting with its name, for messages.

    Raises:
        UserError: there is no such layer, it was not called, or its output is no tensor with a row for each input.
    """
    found: list[Any] = []

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        found.append(first_tensor(output))
        raise _Read

    handle = find_layer(network, layer, key).register_forward_hook(hook)
    try:
        network(x)
    except _Read:
        pass
    finally:
        handle.remove()
    output = found[0] if found else None
    if not isinstance(output, Tensor) or output.ndim < 2 or len(output) != len(x):
        what = f"gives {tuple(output.shape)}" if isinstance(output, Tensor) else "gives no tensor"
        raise UserError(f"{key}: {layer} {what if found else 'is not called'}; an output (B, …) is needed")
    return output


def run_edited(network: nn.Module, x: Tensor, layer: str, edit: Callable[[Tensor], Tensor]) -> Any:
    """Runs a network with the output of a layer changed by ``edit``, at each of its calls.

    Args:
        network: The network.
        x: Its inputs.
        layer: Dotted name of the module.
        edit: Maps the layer's output to another of its shape.
    """

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        return _with_first(output, edit(first_tensor(output)))

    handle = find_layer(network, layer).register_forward_hook(hook)
    try:
        return network(x)
    finally:
        handle.remove()


def earlier_siblings(network: nn.Module, layer: str) -> list[nn.Module]:
    """Returns the modules before a layer, and before what holds it, in each ``Sequential`` and ``ModuleList``."""
    found: list[nn.Module] = []
    here = network
    for part in layer.split("."):
        if isinstance(here, nn.Sequential | nn.ModuleList):
            found += list(here)[: int(part)]
        here = getattr(here, part)
    return found


@contextmanager
def _instead(modules: Sequence[nn.Module], forward: Callable[..., Any]) -> Iterator[None]:
    before = [module.__dict__.get("forward") for module in modules]
    for module in modules:
        module.__dict__["forward"] = forward
    try:
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            if own is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = own


def run_rest(network: nn.Module, x: Tensor, layer: str, output: Tensor) -> Any:
    """Runs what follows a layer, given its whole output; the modules of its list before it are passed over.

    This is right only where nothing behind the layer reads what is before it, see :func:`rest_is_enough`.

    Args:
        network: The network.
        x: Its inputs, of the right shape; what they hold is used only by modules outside of the list.
        layer: Dotted name of the module.
        output: Its output.
    """
    with (
        _instead(earlier_siblings(network, layer), lambda x, *args, **kwargs: x),
        _instead([find_layer(network, layer)], lambda *args, **kwargs: output),
    ):
        return network(x)


@torch.no_grad()
def rest_is_enough(network: nn.Module, x: Tensor, layer: str, output: Tensor) -> bool:
    """Whether :func:`run_rest` gives what the whole network does, tried with the outputs of other inputs.

    Args:
        network: The network.
        x: Inputs (B, …).
        layer: Dotted name of the module.
        output: The layer's outputs for them.
    """
    other = output.roll(1, 0)
    if len(x) < 2 or torch.equal(other, output):
        other = output + torch.linspace(-1, 1, output.numel(), device=output.device).view_as(output).to(output.dtype)
    calls = []

    def edit(_: Tensor) -> Tensor:
        calls.append(layer)
        return other.clone()  # what follows may change it in place

    try:
        short = run_rest(network, x, layer, other.clone())
        whole = run_edited(network, x, layer, edit)
        # a layer that is called again has another output then
        return len(calls) == 1 and bool(torch.allclose(short, whole, rtol=1e-4, atol=1e-5))
    except Exception:  # foreign code that reads more of its modules than their outputs
        return False


class InterchangeModel(nn.Module):
    """A frozen network, an alignment map, and where interventions are made.

        z = φ(h(x₀));  z[B_i] ← φ(h(x_i))[B_i] for each intervened node i;  logits = rest of the network(φ⁻¹(z))

    Args:
        network: The host. It is put in evaluation mode and gets no gradients; training mode does not reach it.
        alignment: φ.
        interchange: Where.

    Attributes:
        owner: (d,) int64: which node each latent belongs to, -1 for none.

    Raises:
        UserError: a layer is not there, or the partition does not fit the map.
    """

    owner: Tensor

    def __init__(self, network: nn.Module, alignment: AlignmentMap, interchange: Interchange) -> None:
        super().__init__()
        find_layer(network, interchange.layer)
        find_layer(network, interchange.source_layer or interchange.layer, "source_layer")
        interchange.check(alignment.features)
        self.network = network.eval().requires_grad_(False)
        self.alignment = alignment
        self.register_buffer("owner", torch.full((alignment.features,), -1))
        self.interchange = interchange
        self.set_partition(interchange.partition)
        self._short: bool | None = None

    def train(self, mode: bool = True) -> InterchangeModel:
        """Sets the mode of the map; the host stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    def set_partition(self, partition: Partition) -> None:
        """Gives each node its latents."""
        self.owner.fill_(-1)
        for node, block in enumerate(partition):
            self.owner[list(block)] = node

    @property
    def partition(self) -> Partition:
        """The latents of each node, ascending."""
        owner = self.owner.tolist()
        return tuple(
            tuple(j for j, node in enumerate(owner) if node == i) for i in range(len(self.interchange.partition))
        )

    @torch.no_grad()
    def base_output(self, base: Tensor) -> Tensor:
        """Returns the whole output of the layer for base inputs."""
        return read_layer(self.network, base, self.interchange.layer)

    @torch.no_grad()
    def activity_of(self, x: Tensor) -> Tensor:
        """Returns the activity (n, d) of inputs (n, …) at the layer that sources are read from."""
        where = self.interchange
        if where.source_layer is None:
            return self._checked(where.select(read_layer(self.network, x, where.layer)))
        return self._checked(where.select(read_layer(self.network, x, where.source_layer, "source_layer")))

    def in_precision_of_map(self, h: Tensor) -> Tensor:
        """Returns activity (n, d) of a host of any precision in that of the map; the identity keeps the host's."""
        return h.to(next((value.dtype for value in self.alignment.parameters() if value.numel()), h.dtype))

    def source_activity(self, sources: Tensor, nodes: Tensor) -> Tensor:
        """Returns the activity (n, d) of the sources (B, m, …) of intervened nodes (B, m), row by row."""
        used = sources[nodes.bool()]
        return self.activity_of(used) if len(used) else torch.zeros(0, len(self.owner), device=self.owner.device)

    def mixed(self, h: Tensor, used: Tensor, nodes: Tensor) -> Tensor:
        """Returns φ⁻¹ of the mixed latents (B, d); arguments as of :meth:`mixed_latents`."""
        with parametrize.cached():  # an orthogonal matrix is used in both directions
            return self.alignment.inverse(self.mixed_latents(h, used, nodes))

    def mixed_latents(self, h: Tensor, used: Tensor, nodes: Tensor) -> Tensor:
        """Returns z (B, d) of the base inputs with the blocks of the intervened nodes replaced.

        Args:
            h: Activity of the base inputs (B, d).
            used: Activity of the sources of intervened nodes, as :meth:`source_activity` returns it.
            nodes: Which nodes are intervened on, (B, m).
        """
        nodes = nodes.bool()
        h = self.in_precision_of_map(h)
        z, replacing = self.alignment(torch.cat([h, used.to(h.dtype)])).tensor_split([len(h)])
        full = z.new_zeros(*nodes.shape, z.shape[1]).index_put(nodes.nonzero(as_tuple=True), replacing)
        owner = self.owner.clamp(min=0)
        found = full.gather(1, owner.expand(len(z), 1, -1))[:, 0]
        return torch.where(nodes[:, owner] & (self.owner >= 0), found, z)

    def forward(
        self, base: Tensor, sources: Tensor, nodes: Tensor, cached: tuple[Tensor | None, Tensor | None] = (None, None)
    ) -> Tensor:
        """Returns the logits of the intervened network.

        Args:
            base: Inputs (B, …).
            sources: One input for each node, (B, m, …).
            nodes: Which nodes are intervened on, (B, m).
            cached: What :meth:`base_output` and :meth:`source_activity` gave for these, where it is known.

        Raises:
            UserError: the layer has another number of units than the map; sources or nodes are not those of m nodes.
        """
        wanted = (len(base), len(self.interchange.partition))
        if not tuple(nodes.shape) == tuple(sources.shape[:2]) == wanted:
            raise UserError(
                f"sources, nodes: shapes {tuple(sources.shape)} and {tuple(nodes.shape)} are not accepted; both start "
                f"with {wanted}, the base inputs and the partition's nodes"
            )
        output, used = cached
        used = self.source_activity(sources, nodes) if used is None else used

        def edit(output: Tensor) -> Tensor:
            h = self._checked(self.interchange.select(output))
            return self.interchange.insert(output, self.mixed(h, used, nodes))

        if output is None or not self.can_skip(base, output):
            return run_edited(self.network, base, self.interchange.layer, edit)
        return run_rest(self.network, base, self.interchange.layer, edit(output))

    @torch.no_grad()
    def logits_of_units(self, base: Tensor, output: Tensor, used: Tensor, nodes: Tensor, owners: Tensor) -> Tensor:
        """Returns the logits of interventions on units themselves (φ = identity), for several partitions at a time.

        Args:
            base: Inputs (B, …).
            output: The layer's output for them.
            used: Activity of the sources of intervened nodes.
            nodes: Which nodes are intervened on, (B, m).
            owners: Which node each unit belongs to, -1 for none, (K, d).

        Returns:
            (B, K, C).
        """
        count, owner = len(owners), owners.clamp(min=0)
        nodes, h = nodes.bool(), self.interchange.select(output)[:, None]
        sources = h.new_zeros(*nodes.shape, h.shape[2])
        sources[nodes] = used.to(h.dtype)
        found = sources[:, owner, torch.arange(owners.shape[1], device=owners.device)]
        mixed = torch.where(nodes[:, owner] & (owners >= 0), found, h).flatten(0, 1)
        repeated, outputs = base.repeat_interleave(count, 0), output.repeat_interleave(count, 0)
        edited = self.interchange.insert(outputs, mixed)
        if self.can_skip(base, output):
            logits = run_rest(self.network, repeated, self.interchange.layer, edited)
        else:
            logits = run_edited(self.network, repeated, self.interchange.layer, lambda _: edited)
        return logits.unflatten(0, (len(base), count))

    def forget(self) -> None:
        """Makes :meth:`can_skip` try again."""
        self._short = None

    def can_skip(self, base: Tensor, output: Tensor) -> bool:
        """Whether the rest of the network can be run alone; it is tried once, see :func:`rest_is_enough`."""
        if self._short is None:
            self._short = rest_is_enough(self.network, base[:8], self.interchange.layer, output[:8])
        return self._short

    def _checked(self, h: Tensor) -> Tensor:
        if h.shape[1] != self.alignment.features:
            raise UserError(
                f"features: {self.alignment.features}, but {self.interchange.layer} has {h.shape[1]} numbers at the "
                "place of the intervention"
            )
        return h
