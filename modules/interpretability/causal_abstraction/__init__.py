"""Causal abstraction."""

from modules.interpretability.causal_abstraction.alignment_file import load_alignment, save_alignment
from modules.interpretability.causal_abstraction.equality import EqualityMLP
from modules.interpretability.causal_abstraction.hosts import HostConfig, network_hash, train_host
from modules.interpretability.causal_abstraction.interchange import Interchange, InterchangeModel, contiguous
from modules.interpretability.causal_abstraction.maps import (
    AlignmentMap,
    IdentityMap,
    MapConfig,
    OrthogonalMap,
    RevNet,
    build_map,
)
from modules.interpretability.causal_abstraction.module import CausalAbstraction
from modules.interpretability.causal_abstraction.networks import BlockMLP, LastToken

__all__ = [
    "AlignmentMap",
    "BlockMLP",
    "CausalAbstraction",
    "EqualityMLP",
    "HostConfig",
    "IdentityMap",
    "Interchange",
    "InterchangeModel",
    "LastToken",
    "MapConfig",
    "OrthogonalMap",
    "RevNet",
    "build_map",
    "contiguous",
    "load_alignment",
    "network_hash",
    "save_alignment",
    "train_host",
]
