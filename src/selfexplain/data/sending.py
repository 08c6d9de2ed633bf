"""Send small tensors to a GPU without waiting for it."""

import torch


def send(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Return the tensor on a device.

    An ordinary copy to a GPU waits until the GPU has done all that was asked of it before; from
    pinned memory it takes its turn, and the program goes on.

    Example:
        >>> send(torch.arange(3), "cpu")
        tensor([0, 1, 2])
    """
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
