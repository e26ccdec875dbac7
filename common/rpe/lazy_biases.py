"""The biases of a stack of layers, each computed when it is asked for: no more than one need exist at a time."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import overload

from torch import Tensor

__all__ = ["LazyBiases"]


class LazyBiases(Sequence[Tensor]):
    """One bias a layer. A subclass has `__len__` and `_bias`."""

    @abstractmethod
    def _bias(self, layer: int) -> Tensor:
        """The bias of layer 0 <= layer < len(self)."""

    @overload
    def __getitem__(self, layer: int) -> Tensor: ...
    @overload
    def __getitem__(self, layer: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, layer: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(layer, slice):
            return [self._bias(one) for one in range(*layer.indices(len(self)))]
        return self._bias(self._checked(layer))

    def _checked(self, layer: int) -> int:
        """The layer's number from 0; those from the end are negative, as of any sequence.

        Raises:
            IndexError: no such layer.
        """
        if not -len(self) <= layer < len(self):
            raise IndexError(f"layer {layer} of {len(self)}")
        return layer % len(self)
