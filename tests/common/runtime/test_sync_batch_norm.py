"""Batch norm over two processes is batch norm over their batches together."""

import torch
import torch.distributed as dist
from torch import nn
from torch.testing import assert_close

from common.runtime.sync_batch_norm import CPUSyncBatchNorm, synchronise_batch_norm

SHARES = (3, 5)  # of the batch: processes need not have equally many


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(4 * 9)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def batch():
    return torch.randn(sum(SHARES), 2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3 + 100


def run(net, x):
    """Outputs, the gradient of the inputs, gradients and buffers of two steps' worth of statistics."""
    x = x.clone().requires_grad_()
    net(x.detach())
    out = net(x)
    (out * torch.linspace(-1, 1, out.shape[1], dtype=out.dtype)).square().sum().backward()
    return out.detach(), x.grad


def _process(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
    net = synchronise_batch_norm(network(), torch.device("cpu"))
    share = batch().split(SHARES)[rank]
    out, gradient = run(net, share)
    for parameter in net.parameters():
        dist.all_reduce(parameter.grad)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    torch.save((out, gradient, [p.grad for p in net.parameters()], state), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path, run_processes):
    run_processes(_process, (tmp_path,), 2)
    shares = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    net = network()
    out, gradient = run(net, batch())
    assert_close(torch.cat([share[0] for share in shares]), out)
    assert_close(torch.cat([share[1] for share in shares]), gradient)
    for share in shares:
        for found, expected in zip(share[2], [p.grad for p in net.parameters()], strict=True):
            assert_close(found, expected)
        assert_close(share[3], net.state_dict())


def test_parameters_are_kept_and_one_process_is_unchanged():
    net = network()
    before = dict(net.named_parameters())
    expected = run(network(), batch())
    same = synchronise_batch_norm(net, torch.device("cpu"))
    assert isinstance(same[1], CPUSyncBatchNorm)
    assert isinstance(same[4], CPUSyncBatchNorm)
    assert list(same.state_dict()) == list(network().state_dict())
    assert all(value is before[name] for name, value in same.named_parameters())
    assert_close(run(same, batch()), expected)


def test_evaluation_uses_the_running_statistics():
    net = synchronise_batch_norm(network(), torch.device("cpu"))
    run(net, batch())
    plain = network()
    plain.load_state_dict(net.state_dict())
    assert_close(net.eval()(batch()), plain.eval()(batch()))
