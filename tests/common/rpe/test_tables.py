"""The cache of tables: built once, bounded, and never filled with what only a trace can use."""

import pytest
import torch

from common.rpe.tables import constant_table


@pytest.fixture
def counted():
    built = []

    @constant_table(maxsize=2)
    def squares(count, dtype=torch.float32):
        built.append(count)
        return (torch.arange(count, device="cpu") ** 2).to(dtype)

    return squares, built


def test_builds_once_and_forgets_the_least_used(counted):
    squares, built = counted
    first = squares(3)
    assert squares(3) is first
    squares(4)
    squares(3)
    squares(5)  # 4 has waited longest
    assert squares(3) is first
    squares(4)
    assert built == [3, 4, 5, 4]


def test_settings_by_name_count_too(counted):
    squares, built = counted
    assert squares(3, dtype=torch.int64).dtype == torch.int64
    assert squares(3).dtype == torch.float32
    assert built == [3, 3]


def test_what_is_built_while_evaluating_serves_training(counted):
    squares, _ = counted
    with torch.inference_mode():
        table = squares(3)
    assert not table.is_inference()
    weight = torch.ones(3, requires_grad=True)
    (weight * table).sum().backward()
    assert torch.equal(weight.grad, table)


def test_fake_tensors_of_a_trace_are_not_kept(counted):
    squares, built = counted

    class Model(torch.nn.Module):
        def forward(self, x):
            return x + squares(3)

    torch.export.export(Model(), (torch.zeros(3),), strict=False)
    assert type(squares(3)) is torch.Tensor
    assert squares(3).tolist() == [0, 1, 4]
    assert len(built) > 1


def test_a_default_device_does_not_matter(counted):
    squares, _ = counted
    with torch.device("meta"):
        assert squares(3).device.type == "cpu"


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_models_may_read_several_tables(counted, backend):
    """Of one function too, of several sizes and one of them twice, and others later."""
    squares, _ = counted
    torch.compiler.reset()
    compiled = {"fullgraph": True, "backend": backend}
    x = torch.zeros(())
    first = torch.compile(lambda x: x + squares(3).sum() + squares(4).sum() + squares(3).sum(), **compiled)
    second = torch.compile(lambda x: x + squares(5).sum() + squares(4).sum(), **compiled)
    for _ in range(2):
        assert float(first(x)) == 5 + 14 + 5
        assert float(second(x)) == 30 + 14
    assert squares(4).tolist() == [0, 1, 4, 9]
