"""Second derivatives of reading rows, and the same from sparse gradients."""

import pytest
import torch

from modules.sequence.ultramem_v2.tables import MemoryRows, row_products, row_sum

IDS = torch.tensor([[0, 2, 2], [1, 3, 0]])


def reader(kind, sparse):
    """A function of what is read with and of the table, and both."""
    width, read = (3, row_products) if kind == "products" else (4, row_sum)
    table = MemoryRows(5, width, sparse).double()
    left = torch.randn(*((2, 3) if kind == "products" else (2, 3, 2)), dtype=torch.float64, requires_grad=True)

    def read_rows(left, weight):
        rows = MemoryRows(5, width, sparse).double()
        del rows.weight
        rows.weight = weight
        return read(left, rows, IDS)

    return read_rows, left, table.weight.detach().requires_grad_()


@pytest.mark.parametrize("kind", ["products", "sum"])
def test_second_derivatives(kind):
    read, left, weight = reader(kind, sparse=False)
    assert torch.autograd.gradgradcheck(read, (left, weight))


@pytest.mark.parametrize("kind", ["products", "sum"])
def test_sparse_gradients_stay_sparse(kind):
    found = []
    for sparse in (False, True):
        torch.manual_seed(0)
        read, left, weight = reader(kind, sparse)
        out = read(left, weight)
        (gradient,) = torch.autograd.grad(out.square().sum(), left, create_graph=True)
        found.append(torch.autograd.grad(out.sum() + gradient.square().sum(), (left, weight)))
    assert found[1][1].is_sparse
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other.to_dense(), one)
