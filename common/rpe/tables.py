"""A cache for tensors that follow from settings alone: bucket ids, query grids, masks.

Layers and modules share them, and nobody writes to them. `torch.compile` builds them while it traces, and reads them as
tensors of fixed sizes.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from threading import Lock
from types import SimpleNamespace
from typing import ParamSpec

import torch
from torch import Tensor

__all__ = ["constant_table"]

P = ParamSpec("P")


def constant_table(maxsize: int) -> Callable[[Callable[P, Tensor]], Callable[P, Tensor]]:
    """Remember what a function of hashable positional arguments built, the `maxsize` last used results of it.

    functools.lru_cache would not do: what is first built while a model is traced with fake tensors (torch.export)
    must not be what a real run is given later, and what is first built while evaluating must serve training too.
    Tables that a compiled model reads are kept as long as the process.
    """

    def decorate(build: Callable[P, Tensor]) -> Callable[P, Tensor]:
        tables: OrderedDict[tuple[object, ...], Tensor] = OrderedDict()
        lock = Lock()
        compiled = SimpleNamespace()
        names: dict[tuple[object, ...], str] = {}

        def remembered(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            key = (*args, *sorted(kwargs.items()))
            with lock:
                if key in tables:
                    tables.move_to_end(key)
                    return tables[key]
            with torch.inference_mode(False), torch.no_grad():
                built = build(*args, **kwargs)
            if type(built) is Tensor:
                with lock:
                    tables[key] = built
                    if len(tables) > maxsize:
                        tables.popitem(last=False)
            return built

        def place(*args: P.args, **kwargs: P.kwargs) -> str:
            """The attribute of `compiled` that holds a table. Run while a model is compiled, not traced."""
            key = (*args, *sorted(kwargs.items()))
            with lock:
                name = names.setdefault(key, f"table{len(names)}")
            if not hasattr(compiled, name):
                built = remembered(*args, **kwargs)
                # What torch._dynamo.mark_static does, but for its import of the whole compiler.
                built._dynamo_static_indices = set(range(built.ndim))  # type: ignore[attr-defined]
                setattr(compiled, name, built)
            return name

        # What torch.compiler.assume_constant_result does, but for its import of the whole compiler.
        place._dynamo_marked_constant = True  # type: ignore[attr-defined]

        @wraps(build)
        def table(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            if torch.compiler.is_dynamo_compiling():
                return getattr(compiled, place(*args, **kwargs))
            return remembered(*args, **kwargs)

        return table

    return decorate
