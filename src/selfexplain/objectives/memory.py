"""Tensors that are remembered from one step to the next and take their shape from the data."""

from typing import Any

import torch
from torch import Tensor, nn


class Memory(nn.Module):
    """Named buffers that are empty until something is kept, and that load whatever was saved.

    Args:
        *names: of the tensors.

    Example:
        >>> memory = Memory("image_BCHW", "y_B")
        >>> memory.empty
        True
        >>> memory.keep(image_BCHW=torch.ones(2, 1, 4, 4), y_B=torch.tensor([0, 1]))
        >>> other = Memory("image_BCHW", "y_B")
        >>> _ = other.load_state_dict(memory.state_dict())
        >>> other["y_B"]
        tensor([0, 1])
    """

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            self.register_buffer(name, torch.empty(0))

    @property
    def empty(self) -> bool:
        """Whether nothing has been kept yet."""
        return all(buffer.numel() == 0 for buffer in self.buffers())

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of that name: a copy, which what is kept later does not change."""
        return self.get_buffer(name).clone()

    @torch.no_grad()
    def keep(self, **tensors: Tensor) -> None:
        """Copy the values of these tensors.

        They are written into the same memory each time, as a recorded step (training/recording.py)
        does; only another shape or type takes new memory, or what was kept in inference mode, into
        which nothing can be written outside it.
        """
        for name, tensor in tensors.items():
            old = self.get_buffer(name)
            alike = old.shape == tensor.shape and old.dtype == tensor.dtype
            if alike and not old.is_inference():
                old.copy_(tensor)
            else:
                setattr(self, name, tensor.detach().clone())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, old in list(self.named_buffers()):
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device=old.device))
        super()._load_from_state_dict(state_dict, prefix, *args)
