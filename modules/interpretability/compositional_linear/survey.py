"""Compares encoders on one labelled set: geometry of their embeddings, and probes on unseen combinations.

Paper: Uselis, Dittadi, Oh, 2026, "Compositional Generalization Requires Linear, Orthogonal Representations in Vision
Embedding Models", arXiv 2602.24264.

Run: ``python -m modules.interpretability.compositional_linear.survey pixels conv timm:resnet18 run:FOLDER``. Encoders:
``pixels``, ``conv`` (random weights), ``timm:NAME`` (random weights), ``timm:NAME:FILE`` with local weights, and
``run:PATH``, a run folder or a checkpoint of this project. The images are those of ``--config``; other settings follow
as on the command line (``--data.source=dsprites --data.path=FILE``). Embeddings are kept in ``--cache``. It writes
``survey.json`` and ``survey.png`` into ``--out``. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from framework.errors import UserError
from framework.figures import save_figure
from framework.files import write_text
from framework.functional.linear_factors import PENALTIES, study_embeddings
from framework.observing.embeddings import Features
from modules.interpretability.compositional_linear.embeddings import embeddings
from modules.interpretability.compositional_linear.encoders import open_encoder
from modules.interpretability.compositional_linear.plots import survey_figure

CONFIG = "interpretability/compositional_linear"
COLUMNS = ("r2", "r2_projected", "r2_whitened", "cross", "within", "k95", "accuracy", "penalty")


def survey_encoder(
    name: str,
    encoder: nn.Module,
    datamodule: Any,
    features: Features = "pre",
    projection: str | None = None,
    cache: str | Path | None = None,
    fraction: float = 0.1,
    penalties: Sequence[float] = PENALTIES,
    steps: int = 500,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Returns the scores of one encoder, a row for each kind of features.

    Args:
        name: Of the encoder, for the rows.
        encoder: The encoder.
        datamodule: One of factors, after ``setup``.
        features: ``pre`` the projection, ``post`` it, or ``both``.
        projection: Name of the projection.
        cache: Folder of embeddings.
        fraction: Share of the combinations that probes are trained on.
        penalties: Those to choose from.
        steps: Steps of each fit of the probes.
        device: Device of the encoder.

    Raises:
        UserError: a setting is not accepted, or the datamodule is another one.
    """
    found = embeddings(encoder, datamodule, features, projection, cache, device)
    rows = []
    for kind, z in found.z.items():
        study = study_embeddings(z, found.labels, fraction, penalties=penalties, steps=steps)
        what = {"encoder": name, "features": kind, "projection": found.projection, "dimension": z.shape[1]}
        rows.append({**what, **study.record(found.concepts)})
    return rows


def factor_data(config: str, *overrides: str) -> Any:
    """Returns the datamodule of a config, set up.

    Args:
        config: A path or the short name of a shipped config.
        *overrides: Options as on the command line.

    Raises:
        UserError: a setting is not accepted, or a file is broken.
    """
    from framework.runs.experiment import build

    data = build(config, overrides=[*overrides, "--wandb.mode=disabled", "--trainer.logger=false"]).datamodule
    assert data is not None
    data.setup("fit")
    return data


def table_of(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the rows as a table of text."""
    names = [f"{row['encoder']} ({row['features']})" for row in rows]
    width = max(map(len, names))
    lines = [" " * width + "".join(f"{column:>13}" for column in COLUMNS)]
    for name, row in zip(names, rows, strict=True):
        lines.append(name.ljust(width) + "".join(f"{row.get(column, float('nan')):13.3g}" for column in COLUMNS))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Surveys the encoders on the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", nargs="+", help="pixels, conv, timm:NAME, timm:NAME:FILE or run:PATH")
    parser.add_argument("--config", default=CONFIG, help="config whose data are used")
    parser.add_argument(
        "--features", choices=("pre", "post", "both"), default="pre", help="before or after the projection"
    )
    parser.add_argument("--projection", help="name of the projection layer; by default each encoder's last")
    parser.add_argument("--fraction", type=float, default=0.1, help="share of the combinations to train probes on")
    parser.add_argument("--cache", type=Path, default=Path("embeddings"), help="folder of the embeddings")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of survey.json and survey.png")
    parser.add_argument("--device", default="cpu")
    given, settings = parser.parse_known_args(arguments)
    try:
        data = factor_data(given.config, *settings)
        rows: list[dict[str, Any]] = []
        for name in given.encoders:
            encoder = open_encoder(name, data.image_size)
            settings_of = (given.features, given.projection, given.cache, given.fraction)
            rows += survey_encoder(name, encoder, data, *settings_of, device=given.device)
        print(table_of(rows))
        write_text(given.out / "survey.json", json.dumps(rows, indent=1) + "\n")
        print(save_figure(survey_figure(rows), given.out / "survey.png"))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
