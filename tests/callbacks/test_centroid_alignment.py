"""Measurements against closed forms, the grid of steps, and the figure."""

import pytest
import torch
from editing_toys import Net, trainer_of
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.centroid_alignment import CentroidAlignment, alignment_figure, as_image, measure_alignment
from framework.errors import UserError


class Logs(Net):
    def __init__(self):
        super().__init__()
        self.seen = []

    def log(self, name, value, *args, **kwargs):
        if name.startswith("centroid_alignment/"):
            self.seen.append((self.trainer.global_step, name.partition("/")[2], float(value)))
        super().log(name, value, *args, **kwargs)


def fit(folder, technique, module, **options):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(7)
    x, y = torch.randn(24, 5, generator=generator), torch.randint(0, 3, (24,), generator=generator)
    loader = DataLoader(TensorDataset(x, y), batch_size=2)
    trainer_of(folder, technique, limit_val_batches=0, **options).fit(module, loader)
    return module


def test_the_jacobian_of_a_linear_model():
    """μ is the sum of the rows of the weight, whatever the sample."""
    net = nn.Linear(4, 3, bias=False).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    found, mu = measure_alignment(net, x)
    row = net.weight.detach().sum(0)
    torch.testing.assert_close(mu, row.expand(5, 4))
    assert found["norm"] == pytest.approx(float(row.norm()))
    assert found["inner"] == pytest.approx(float((x @ row).mean()))
    assert found["alignment"] == pytest.approx(float((x @ row / row.norm() / x.norm(dim=1)).mean()))
    values = torch.linalg.svdvals(net.weight.detach())
    assert found["pc1"] == pytest.approx(float(values[0] ** 2 / values.square().sum()))
    assert "pc1" not in measure_alignment(net, x, pc1=False)[0]
    assert all(p.grad is None for p in net.parameters())


def test_what_is_dead_diverged_or_in_half_precision():
    net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    net[0].weight.data = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    x = torch.tensor([[-1.0, -1.0], [1.0, -1.0]])  # the first one reaches no unit
    assert measure_alignment(net, x)[0]["pc1"] == pytest.approx(1)
    net[2].weight.data.fill_(float("nan"))
    assert not any(value == value for value in measure_alignment(net, x)[0].values())
    half = nn.Linear(4, 3, bias=False).half()
    half.weight.data.fill_(200)
    found, _ = measure_alignment(half, torch.full((2, 4), 200.0).half())
    assert found["alignment"] == pytest.approx(1)
    assert found["inner"] == pytest.approx(4 * 600 * 200)


def test_by_the_embedding():
    embed, head = nn.Embedding(7, 4), nn.Linear(4, 3, bias=False)
    net = nn.Sequential(embed, nn.Flatten(1, 2), nn.Unflatten(1, (2, 4)), head)
    tokens = torch.tensor([[1, 2], [3, 4]])
    with torch.inference_mode():
        found, mu = measure_alignment(net, tokens, embed)
    torch.testing.assert_close(mu, head.weight.detach().sum(0).expand(2, 2, 4))
    assert found["norm"] == pytest.approx(float(mu[0].norm()))
    with pytest.raises(UserError, match=r"for tokens name the embedding \(embed\)"):
        measure_alignment(net, tokens)


def test_it_measures_on_a_geometric_grid(tmp_path):
    technique = CentroidAlignment(points=2, per_decade=4)
    module = fit(tmp_path, technique, Logs(), max_epochs=3)
    steps = [step for step, name, _ in module.seen if name == "alignment"]
    assert steps == [0, 1, 2, 4, 8, 15, 27]
    assert [point["step"] for point in technique.points] == steps
    assert (tmp_path / "figures" / "centroid_alignment.png").is_file()
    other = CentroidAlignment(points=2, per_decade=4)
    other.load_state_dict(technique.state_dict())
    assert (other._next, other.points) == (technique._next, technique.points)


@pytest.mark.parametrize(("shape", "expected"), [((64,), (8, 8)), ((1, 6, 7), (6, 7)), ((3, 6, 6), (6, 6, 3))])
def test_what_is_an_image(shape, expected):
    image = as_image(torch.arange(float(torch.tensor(shape).prod())).view(shape))
    assert image.shape == expected
    points = [{"step": s, "alignment": 0.1, "norm": 1.0, "pc1": 0.5} for s in (0, 10)]
    figure = alignment_figure(points, [{"step": 10, "val/accuracy": 0.5}], torch.rand(shape), torch.rand(shape))
    assert len([axes for axes in figure.axes if axes.images]) == 2


def test_what_is_none():
    assert as_image(torch.zeros(16)) is None
    assert as_image(torch.zeros(63)) is None
    assert as_image(torch.zeros(4, 9, 9)) is None


def test_what_is_refused(tmp_path):
    with pytest.raises(UserError, match="per_decade: 0 is not accepted"):
        CentroidAlignment(per_decade=0)
    with pytest.raises(UserError, match=r"techniques.centroid_alignment.embed.*nothing"):
        fit(tmp_path, CentroidAlignment(embed="nothing"), Net())
