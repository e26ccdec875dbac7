"""Run OpenGait on a CPU: what insists on CUDA and NCCL is patched from outside, nothing of its tree is changed.

    python tests/parity/opengait_cpu.py path/to/opengait/main.py --cfgs ... --phase train
    python tests/parity/opengait_cpu.py -m plugin --opengait path/to/OpenGait --cfgs ...

also under torchrun. `patch()` does it for the calling process. Packages that OpenGait imports for models which are of
no use here (imageio, lightly) are replaced by empty ones where they are not installed.
"""

import importlib.util
import os
import runpy
import sys
import types
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


class _Anything(types.ModuleType):
    """A module that has whatever is asked of it."""

    __path__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return object


def _stand_in(*names: str) -> None:
    absent = {name for name in names if importlib.util.find_spec(name.split(".")[0]) is None}
    sys.modules.update({name: _Anything(name) for name in absent})


def _is_cuda(device: Any) -> bool:
    return isinstance(device, int) or str(device).startswith("cuda")


def patch() -> None:
    """Make this process's CUDA calls stay on the CPU, and NCCL gloo."""
    _stand_in(
        "imageio", "lightly", "lightly.models", "lightly.models.utils", "lightly.utils", "lightly.utils.scheduler"
    )
    cuda: Any = torch.cuda
    cuda.device_count = lambda: int(os.environ.get("WORLD_SIZE", "1"))
    cuda.set_device = lambda device: None
    cuda.current_device = lambda: 0
    tensor: Any = torch.Tensor
    tensor.cuda = lambda self, *args, **kwargs: self
    module: Any = nn.Module
    module.cuda = lambda self, *args, **kwargs: self

    to = nn.Module.to

    def module_to(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        args = tuple(arg for arg in args if not _is_cuda(arg))
        kwargs = {name: value for name, value in kwargs.items() if name != "device" or not _is_cuda(value)}
        return to(self, *args, **kwargs) if args or kwargs else self

    module.to = module_to
    load = torch.load

    def load_on_cpu(*args: Any, **kwargs: Any) -> Any:
        return load(*args, **{**kwargs, "map_location": "cpu"})

    torch.load = load_on_cpu
    parallel: Any = nn.parallel.DistributedDataParallel
    begin = parallel.__init__

    def parallel_init(self: Any, wrapped: nn.Module, *args: Any, **kwargs: Any) -> None:
        begin(self, wrapped, *args, **{**kwargs, "device_ids": None, "output_device": None})

    parallel.__init__ = parallel_init
    init = dist.init_process_group

    def init_gloo(backend: str | None = None, *args: Any, **kwargs: Any) -> None:
        init("gloo", *args, **kwargs)

    dist.init_process_group = init_gloo


def main(argv: list[str]) -> None:
    patch()
    # OpenGait hands its loaders to forked processes, which would take their threads with them.
    torch.set_num_threads(1)
    if argv[0] == "-m":
        sys.argv = argv[1:]
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = argv
        sys.path.insert(0, os.path.dirname(os.path.abspath(argv[0])))
        runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
