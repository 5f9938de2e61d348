"""Training of features and memberships, and the clusters that come of them (Ding et al. 2023, arXiv 2301.01805)."""

from __future__ import annotations

import csv
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from framework import Module, OptimizerConfig, ScheduleConfig
from framework.data.loader import ExactLoader
from framework.errors import UserError
from framework.files import written
from framework.functional.evaluating import evaluating
from framework.module import as_dataclass
from framework.settings import above, at_least
from modules.representation.manifold_clustering.encoder import TwoHeadConfig, TwoHeadEncoder
from modules.representation.manifold_clustering.plots import curves_figure, geometry_figure, montage_figure
from modules.representation.manifold_clustering.rates import cluster_rate, coding_rate, membership_rate
from modules.representation.manifold_clustering.scores import cluster_scores, geometry
from modules.representation.manifold_clustering.sinkhorn import (
    SinkhornConfig,
    balance,
    memberships,
    row_perplexity,
)
from modules.representation.manifold_clustering.spectral import live_clusters, spectral_clustering

ADAM = OptimizerConfig("adam", lr=1e-3, weight_decay=0.0)
CURVE = "manifold_clustering_curve"
PERPLEXITY = (0.6, 4.0)  # of a row, in units of n/k, outside of which clusters break up or merge
SPREAD = 0.8  # of a row over all n, from which few clusters merge


def mean_view(z: Tensor) -> Tensor:
    """Returns the mean of views (A, B, d), scaled to length 1."""
    return F.normalize(z.mean(0), dim=1)


def view_cosine(z: Tensor) -> Tensor:
    """Returns the mean of |z_iᵀ z_i'| over the pairs of views (A, B, d) of each example."""
    cosines = torch.einsum("abd,cbd->bac", z, z).abs()
    views = len(z)
    return ((cosines.sum((1, 2)) - views) / (views * (views - 1))).mean()


def mlc_terms(
    z: Tensor, c: Tensor, eps_squared: float, eta: float, sinkhorn: SinkhornConfig | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns R(Z), R_c(Z, Γ) and Γ of views, of which R - R_c is maximised.

    Z is the normalised mean of the views' features, Γ the mean of the views' memberships.

    Args:
        z: Features of the views (A, B, d), of length 1.
        c: Their cluster features.
        eps_squared: ε².
        eta: η.
        sinkhorn: How memberships are computed.
    """
    mean = mean_view(z)
    matrix = torch.stack([memberships(view, eta, sinkhorn) for view in c]).mean(0)
    return coding_rate(mean, eps_squared), membership_rate(mean, matrix, eps_squared), matrix


class ManifoldClustering(Module):
    """Clusters unlabelled examples while it makes their clusters linear (MLC).

    Training batches are ``(x, …)`` with views ``x`` (B, A, C, H, W) or (B, A, d); others ``(x, y)`` or ``(x,)``.
    Without the technique ``copied_head``, or before it, the loss is that of TCR, -R(Z) - λ mean |z_iᵀ z_i'|; from then
    on it is R_c - R, which is below 0.

    Logs ``train/loss``, ``train/R``, ``train/cosine`` of the views, and in the second stage ``train/R_c``,
    ``train/perplexity`` of Γ's rows and ``train/live_clusters`` of the epoch's last batch; under ``val/`` the same of
    the examples themselves, ``R_c_clusters`` of the clusters, ``smallest_cluster``, ``gap`` (of the eigenvalues
    after the k-th, a score that needs no labels), ``best_k`` (the number of clusters with the largest gap), and, where
    there are labels, ``accuracy``, ``nmi``, ``ari``, ranks and cosines.

    Args:
        num_clusters: k; null for the number with the largest gap of eigenvalues.
        features: d, dimensions of Z and C.
        image_size: Side of the images in pixels; null for vectors.
        in_chans: Channels of the images, or the length of the vectors.
        encoder: The network below the heads.
        eps_squared: ε², the squared precision of the coding rates.
        eta: η, the entropy of the memberships: the setting that matters most.
        cosine_weight: λ of TCR.
        sinkhorn: How memberships are computed.
        points: Largest number of examples that are clustered at a validation; memory grows with its square. The others
            are assigned to the clusters.
        anchors: Number of clustered examples that are kept to assign others to clusters.
        largest_k: Largest number of clusters that is scored; those up to ``num_clusters`` are in any case.
        optimizer: The optimiser; by default Adam, rate 1e-3, without weight decay.
        schedule: The learning-rate schedule.

    Attributes:
        clustering: Whether the second stage has begun; a buffer.

    Raises:
        UserError: a setting is not accepted, or weights do not fit (in the constructor); the data has another size (in
            ``setup``); training batches have a single view; clusters are asked for before any validation.
    """

    clustering: Tensor
    anchor_features: Tensor
    anchor_potentials: Tensor
    anchor_clusters: Tensor

    def __init__(
        self,
        num_clusters: int | None = 10,
        features: int = 32,
        image_size: int | None = 8,
        in_chans: int = 1,
        encoder: TwoHeadConfig | None = None,
        eps_squared: float = 0.2,
        eta: float = 0.2,
        cosine_weight: float = 60.0,
        sinkhorn: SinkhornConfig | None = None,
        points: int = 4000,
        anchors: int = 1000,
        largest_k: int = 20,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(ADAM if optimizer is None else optimizer, schedule)
        at_least(2, num_clusters=num_clusters, features=features, points=points, anchors=anchors, largest_k=largest_k)
        at_least(1, image_size=image_size, in_chans=in_chans)
        above(0, eps_squared=eps_squared, eta=eta)
        at_least(0, cosine_weight=cosine_weight)
        self.sinkhorn = as_dataclass(SinkhornConfig, sinkhorn)
        above(0, **{"sinkhorn.tolerance": self.sinkhorn.tolerance})
        at_least(1, **{"sinkhorn.max_iterations": self.sinkhorn.max_iterations})
        self.save_hyperparameters()
        self.num_clusters, self.features, self.image_size, self.in_chans = num_clusters, features, image_size, in_chans
        self.eps_squared, self.eta, self.cosine_weight = eps_squared, eta, cosine_weight
        self.points, self.anchors, self.largest_k = points, anchors, largest_k
        self.encoder = TwoHeadEncoder(image_size, in_chans, features, as_dataclass(TwoHeadConfig, encoder))
        self.encoder.cluster_head.requires_grad_(False)  # not called yet: processes side by side wait for gradients
        self.register_buffer("clustering", torch.tensor(False))
        self.register_buffer("anchor_features", torch.zeros(anchors, features))
        self.register_buffer("anchor_potentials", torch.zeros(anchors))
        self.register_buffer("anchor_clusters", torch.full((anchors,), -1))
        self.curve: list[dict[str, float]] = []
        self._seen: list[tuple[Tensor, Tensor, Tensor | None]] = []
        self._last_memberships: Tensor | None = None
        self._alarmed: set[str] = set()

    # the parts that techniques ask for

    def head_names(self) -> tuple[str, str]:
        """Returns the names of the feature head and of the cluster head."""
        return "encoder.feature_head", "encoder.cluster_head"

    def begin_clustering(self) -> None:
        """Begins the second stage."""
        self.clustering.fill_(True)

    # state

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the scores so far, and leaves out the backbone's file, whose weights are in the checkpoint."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[CURVE] = self.curve
        saved = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        if isinstance(saved.get("encoder"), dict):
            saved["encoder"] = {**saved["encoder"], "weights": None}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the scores so far."""
        super().on_load_checkpoint(checkpoint)
        self.curve = list(checkpoint.get(CURVE, []))

    def setup(self, stage: str) -> None:
        """Compares the data's size with the model's.

        Raises:
            UserError: they differ.
        """
        data = getattr(self.trainer, "datamodule", None)
        for name, own, key in (("channels", self.in_chans, "in_chans"), ("image_size", self.image_size, "image_size")):
            found = getattr(data, name, own)
            if found != own:
                raise UserError(f"model.init_args.{key}: {own}, but the data has {name} {found}")

    # training

    def forward(self, x: Tensor) -> Tensor:
        """Maps inputs to features Z (B, d) of length 1."""
        return self.encoder(x, clusters=False)[0]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Returns the loss of the stage.

        Raises:
            UserError: the batch has a single view.
        """
        x = batch[0] if isinstance(batch, tuple | list) else batch
        n, views = x.shape[:2]
        if x.ndim < 3 or views < 2:
            raise UserError(f"data.views: training batches of shape {tuple(x.shape)}; (B, A, …) with A ≥ 2 views")
        flat = x.transpose(0, 1).reshape(views * n, *x.shape[2:])
        second = bool(self.clustering)
        z, c = (part.view(views, n, -1) for part in self.encoder(flat, clusters=second))
        if not second:
            rate, cosine = coding_rate(mean_view(z), self.eps_squared), view_cosine(z)
            loss = -rate - self.cosine_weight * cosine
            self._log_step({"loss": loss, "R": rate, "cosine": cosine})
            # adapters make a head trainable that is not called yet, and processes side by side wait for its gradients
            return loss + sum(0 * p.sum() for p in self.encoder.cluster_head.parameters() if p.requires_grad)
        rate, compressed, matrix = mlc_terms(z, c, self.eps_squared, self.eta, self.sinkhorn)
        loss = compressed - rate
        self._last_memberships = matrix.detach()
        found = {"loss": loss, "R": rate, "R_c": compressed}
        if self.records_step:
            found |= {"cosine": view_cosine(z), "perplexity": row_perplexity(matrix.detach())}
            self._check_perplexity(float(found["perplexity"]), n)
        self._log_step(found)
        return loss

    def _log_step(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.log(f"train/{name}", value.detach(), prog_bar=name == "loss")

    def _check_perplexity(self, perplexity: float, n: int) -> None:
        if self.num_clusters is None or "eta" in self._alarmed or n < 5 * self.num_clusters or isnan(perplexity):
            return
        ratio, (low, high) = perplexity * self.num_clusters / n, PERPLEXITY
        high = min(high, SPREAD * self.num_clusters)
        if not low <= ratio <= high:
            self._alarmed.add("eta")
            way, what = ("larger", "break up") if ratio < low else ("smaller", "merge")
            rank_zero_warn(
                f"model.eta: {self.eta:g} makes rows of Γ of {perplexity:.1f} points, {ratio:.1f} times the mean size "
                f"of a cluster: clusters may {what}; a {way} one, for 1 to 2.5 times, is worth a try"
            )

    def on_train_epoch_end(self) -> None:
        """Clusters the last batch."""
        matrix, self._last_memberships = self._last_memberships, None
        if matrix is None or self.num_clusters is None or not bool(matrix.isfinite().all()):
            return
        k = min(self.num_clusters, len(matrix))
        found = spectral_clustering(matrix.cpu().numpy(), k, largest_k=k)
        live, sizes = live_clusters(found.labels, k)
        self.log("train/live_clusters", float(live), sync_dist=True)
        self.log("train/smallest_cluster", float(sizes[-1]), sync_dist=True)

    def _alarm(self, live: int, k: int, sizes: list[int]) -> None:
        if live < k and "dying" in self._alarmed and "dead" not in self._alarmed:
            self._alarmed.add("dead")
            rank_zero_warn(
                f"{k - live} of {k} clusters have died: they have less than a tenth of the mean number of points "
                f"(sizes {sizes}); fewer clusters (model.num_clusters), or another model.eta"
            )
        (self._alarmed.add if live < k else self._alarmed.discard)("dying")

    # evaluation

    def cluster_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns Z and C (B, d) of inputs; before the second stage C is Z."""
        z, c = self.encoder(x, clusters=bool(self.clustering))
        return z, c

    def on_validation_epoch_start(self) -> None:
        """Forgets the last examples."""
        self._seen = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Encodes a batch."""
        if sum(len(z) for z, _, _ in self._seen) < self.points:
            x, y = _pair(batch)
            z, c = self.cluster_features(x)
            self._seen.append((z.float().cpu(), c.float().cpu(), None if y is None else y.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Clusters the examples, keeps the anchors, and logs."""
        seen, self._seen = self._seen, []
        if not seen or self.trainer.sanity_checking:
            return
        z, c = (torch.cat(parts)[: self.points] for parts in list(zip(*seen, strict=True))[:2])
        labels = [y for _, _, y in seen if y is not None]
        y = torch.cat(labels)[: self.points].numpy() if len(labels) == len(seen) else None
        if not bool(z.isfinite().all() & c.isfinite().all()):
            if "diverged" not in self._alarmed:
                self._alarmed.add("diverged")
                rank_zero_warn(
                    "features are not finite: training has diverged, and nothing is clustered; a smaller rate"
                )
            return
        if len(z) < 2:
            return
        with torch.inference_mode(False):
            values = self.measure(z.clone(), c.clone(), y)
        for name, value in values.items():
            self.log(f"val/{name}", value, prog_bar=name == "accuracy", sync_dist=True)
        if self.trainer.state.fn == "fit":
            self.curve.append({"epoch": float(self.current_epoch + 1), **values})

    def measure(self, z: Tensor, c: Tensor, labels: np.ndarray | None = None) -> dict[str, float]:
        """Clusters examples, keeps anchors of them, and returns what is logged under ``val/``.

        Args:
            z: Features (n, d).
            c: Cluster features (n, d).
            labels: Classes (n,), if they are known.
        """
        n = len(z)
        scores = c @ c.T
        found = balance(
            scores.abs() if self.sinkhorn.absolute else scores,
            self.eta,
            self.sinkhorn.tolerance,
            self.sinkhorn.max_iterations,
        )
        largest_k = max(self.largest_k, min(self.num_clusters or 0, n - 1))  # with the gap of k itself
        spectrum = spectral_clustering(found.matrix.numpy(), self.num_clusters, largest_k=largest_k)
        clusters = spectrum.labels
        k = self.num_clusters or spectrum.best_k
        live, sizes = live_clusters(clusters, k)
        rows = torch.linspace(0, n - 1, min(n, self.anchors)).round().long()
        self.anchor_clusters.fill_(-1)
        kept = len(rows)
        self.anchor_features[:kept] = c[rows].to(self.anchor_features)
        self.anchor_potentials[:kept] = found.potentials[rows].to(self.anchor_potentials)
        self.anchor_clusters[:kept] = torch.from_numpy(clusters)[rows].to(self.anchor_clusters.device)
        members = F.one_hot(torch.from_numpy(clusters), max(k, int(clusters.max()) + 1))
        values = {
            "R": float(coding_rate(z, self.eps_squared)),
            "R_c": float(membership_rate(z, found.matrix, self.eps_squared)),
            "R_c_clusters": float(cluster_rate(z, members, self.eps_squared)),
            "perplexity": float(row_perplexity(found.matrix)),
            "live_clusters": float(live),
            "smallest_cluster": float(sizes[-1]),
            "best_k": float(spectrum.best_k),
            "gap": spectrum.gaps.get(k, 0.0),
        }
        self._alarm(live, min(k, n), sizes)
        self.spectrum = spectrum
        if labels is not None:
            values |= cluster_scores(labels, clusters)
            values |= {name: value for name, value in geometry(z.numpy(), labels).items() if np.isfinite(value)}
        return values

    def assign(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the cluster (B,) of cluster features, and its share (B,) of the membership.

        A point's membership in the clusters is the row that Γ would have for it, Σ_j exp(c ᵀc_j/η + f_j) over the
        anchors of each.

        Args:
            c: Cluster features (B, d).

        Raises:
            UserError: nothing has been clustered yet.
        """
        known = self.anchor_clusters >= 0
        if not bool(known.any()):
            raise UserError(
                "no clusters are known yet: they are made at a validation of `fit`; predict and test need a "
                "checkpoint from after one"
            )
        scores = c.float() @ self.anchor_features[known].float().T
        scores = scores.abs() if self.sinkhorn.absolute else scores
        weights = (scores / self.eta + self.anchor_potentials[known]).softmax(1)
        shares = weights @ F.one_hot(self.anchor_clusters[known]).to(weights)
        share, cluster = shares.max(1)
        return cluster, share

    def on_test_epoch_start(self) -> None:
        """Forgets the last examples."""
        self._tested: list[tuple[Tensor, Tensor | None]] = []

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Assigns unseen examples to clusters."""
        x, y = _pair(batch)
        cluster, share = self.assign(self.cluster_features(x)[1])
        self._tested.append((cluster.cpu(), None if y is None else y.cpu()))
        self.log("test/confidence", share.mean(), batch_size=len(x), sync_dist=True)

    def on_test_epoch_end(self) -> None:
        """Logs the scores of all unseen examples."""
        labels = [y for _, y in self._tested if y is not None]
        if labels and len(labels) == len(self._tested):
            clusters = torch.cat([cluster for cluster, _ in self._tested]).numpy()
            for name, value in cluster_scores(torch.cat(labels).numpy(), clusters).items():
                self.log(f"test/{name}", value, sync_dist=True)

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Returns the cluster of each example, its share of the membership, and the label where there is one."""
        x, y = _pair(batch)
        cluster, share = self.assign(self.cluster_features(x)[1])
        return {"cluster": cluster, "confidence": share, **({} if y is None else {"target": y})}

    # at the end

    def on_train_end(self) -> None:
        """Writes ``clusters.csv``, and draws the clusters, the curves and the geometry."""
        trainer, data = self.trainer, getattr(self.trainer, "datamodule", None)
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        examples = getattr(data, "whole_set", None) or getattr(data, "val_set", None)
        if examples is None or not bool((self.anchor_clusters >= 0).any()):
            return
        # all of them: a loader of the datamodule has the share of one process, and asks the others for its seed
        size, collate = getattr(data, "eval_batch_size", 256), getattr(data, "collate_fn", None)
        loader = ExactLoader(examples, size, collate_fn=collate, seed=0, ranks=lambda: (1, 0))
        x, z, clusters, share, y = self._collect(loader)
        shown = clusters[: len(z)].numpy()
        if not bool(z.isfinite().all()):
            return
        files = getattr(data, "files", None) or []
        folder = Path(trainer.default_root_dir)
        with written(folder / "clusters.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["index", "file", "cluster", "confidence", *([] if y is None else ["label"])])
            for i in range(len(clusters)):
                own = [i, files[i] if files else "", int(clusters[i]), f"{float(share[i]):.4f}"]
                table.writerow([*own, *([] if y is None else [int(y[i])])])
        if x.ndim == 4:
            self.log_figure("clusters", montage_figure(x, shown, share[: len(z)].numpy()))
        if self.curve:
            self.log_figure("curves", curves_figure(self.curve))
        name, groups = ("cluster", shown) if y is None else ("class", y[: len(z)].numpy())
        gaps = getattr(self, "spectrum", None)
        self.log_figure("geometry", geometry_figure(z.numpy(), groups, {} if gaps is None else gaps.gaps, name))

    @torch.no_grad()
    def _collect(self, loader: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """Inputs and features of the first ``points`` examples of a loader; clusters, shares and labels of all."""
        kept: list[tuple[Tensor, Tensor]] = []
        parts: list[tuple[Any, ...]] = []
        with evaluating(self):
            for batch in loader:
                x, y = _pair(batch)
                x = self.trainer.precision_plugin.convert_input(x)
                z, c = self.cluster_features(x.to(self.device))
                parts.append((*(part.cpu() for part in self.assign(c)), y))
                if sum(len(part) for part, _ in kept) < self.points:
                    kept.append((x.cpu(), z.float().cpu()))
        *arrays, labels = zip(*parts, strict=True)
        clusters, share = (torch.cat(part) for part in arrays)
        x, z = (torch.cat(part)[: self.points] for part in zip(*kept, strict=True))
        return x, z, clusters, share, None if labels[0] is None else torch.cat(labels).cpu()


def _pair(batch: Any) -> tuple[Tensor, Tensor | None]:
    """Inputs and labels of a batch, which may have none."""
    if isinstance(batch, Tensor):
        return batch, None
    return batch[0], batch[1] if len(batch) > 1 else None
