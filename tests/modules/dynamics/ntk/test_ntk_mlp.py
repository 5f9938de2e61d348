"""The layerwise kernel against Jacobians and the limit, the module's targets and what it refuses."""

import pytest
import torch
from ensemble_harness import resumed_is_whole
from torch import nn

from datamodules.dynamics.circle import Circle
from datamodules.dynamics.digits_component import DigitsComponent
from framework.errors import UserError
from framework.functional.ntk import infinite_kernels, kernel_vector_product, tangent_kernel
from modules.dynamics.ntk import NTKMLP, NTKRegression


class First(nn.Module):
    """Member 0 alone."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)[0]


@pytest.mark.parametrize("activation", ["relu", "erf", "tanh"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_layer_by_layer_is_the_jacobians_product(outputs, activation):
    torch.manual_seed(0)
    net = NTKMLP(2, 33, 4, outputs, activation=activation)
    x = torch.randn(7, 2, dtype=torch.float64)
    slow = tangent_kernel(First(net), x, apart=True, chunk=3).reshape(7 * outputs, -1)
    fast = net.kernel(x)[0]
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-10)
    torch.testing.assert_close(fast, fast.T)
    assert torch.linalg.eigvalsh(fast).min() > -1e-10
    torch.testing.assert_close(net.kernel(x[:2], x)[0], fast[: 2 * outputs])
    v = torch.randn(7, outputs, dtype=torch.float64)
    torch.testing.assert_close(kernel_vector_product(First(net), x, v).flatten(), slow @ v.flatten())


def test_the_spread_at_the_start_falls_with_the_root_of_the_width():
    torch.manual_seed(0)
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    limit = infinite_kernels(x)[1][0, 0]
    spread = {}
    for width in (256, 1024):
        values = torch.cat([NTKMLP(2, width, members=10, dtype=torch.float32).kernel(x)[:, 0, 0] for _ in range(3)])
        spread[width] = float((values / limit).std())
    assert 0.15 < spread[256] < 0.28
    assert 0.07 < spread[1024] < 0.13
    assert 1.6 < spread[256] / spread[1024] < 2.6


def test_it_trains_and_measures_every_member():
    torch.manual_seed(0)
    data = Circle()
    data.setup("fit")
    batch = data.train_set.batch
    model = NTKRegression(width=30, seeds=3, dtype="float64")
    model.begin(batch)
    found = model.simulate(batch, 100, [0, 100])
    assert found["loss"].shape == (2, 3)
    assert (found["loss"][1] < 0.1 * found["loss"][0]).all()
    assert (found["drift"][0] == 0).all()
    assert (found["drift"][1] > 0).all()
    torch.testing.assert_close(torch.tensor(found["loss"][0]), torch.tensor(found["loss/theory"][0]))


@pytest.mark.parametrize(
    ("data", "inputs"), [(lambda: Circle(passes=2), 2), (lambda: DigitsComponent(samples=20, passes=2), 64)]
)
def test_a_resumed_run_is_the_whole_one(tmp_path, data, inputs):
    resumed_is_whole(lambda: NTKRegression(inputs, width=20, seeds=2, inner_steps=5), data, tmp_path)


def test_bad_settings_and_data():
    for options, words in (
        ({"width": 0}, "width: 0"),
        ({"beta": -1.0}, "beta: -1.0"),
        ({"activation": "step"}, "activation: 'step'"),
        ({"seeds": 0}, "seeds: 0"),
        ({"dtype": "half"}, "dtype: 'half'"),
    ):
        with pytest.raises(UserError, match=words):
            NTKRegression(**options)
    model = NTKRegression(width=4, inputs=3)
    with pytest.raises(UserError, match="inputs: 3, but the data have 2"):
        model.begin({"x": torch.zeros(4, 2), "y": torch.zeros(4)})
    with pytest.raises(UserError, match="x and y"):
        model.begin({"x": torch.zeros(4, 3)})
