"""The paper's config builds at its size."""

from __future__ import annotations

import torch
import yaml
from checkout import CONFIGS

from modules.sequence.lightning_attention import TransNormerLM


def test_the_papers_config_builds_at_its_size_on_meta():
    config = yaml.safe_load((CONFIGS / "sequence" / "lightning_attention_paper.yaml").read_text())
    given = {**config["model"]["init_args"], "vocab_size": config["data"]["init_args"]["vocab_size"]}
    with torch.device("meta"):
        model = TransNormerLM(**given)
    attention, units, lrpe = 5 * 1024**2, 3 * 1024 * 2816, 1024
    assert sum(p.numel() for p in model.parameters()) == 24 * (attention + units) + lrpe + 2 * 64000 * 1024
