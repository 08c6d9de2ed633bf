"""Plain twins of the supernets: the published loop over edges and operations, nothing shared.

They compute with a supernet's own weights, and are what the supernets are tested against.

Shape suffixes: B batch, C channels, H and W space, K classes, E edges, O operations.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfexplain.spaces.darts import PCDARTSSupernet, edge_softmax
from selfexplain.spaces.genotype import FAMILIES
from selfexplain.spaces.nasbench201 import ResidualReduction
from selfexplain.spaces.operations import FactorizedReduce
from selfexplain.spaces.supernet import Supernet, total


def plain_logits(supernet: Supernet, x_BCHW: Tensor, architecture: Mapping[str, Tensor]) -> Tensor:
    """What `supernet(x, architecture)` returns, computed edge by edge and operation by operation.

    Args:
        supernet: of any space.
        x_BCHW: images.
        architecture: as the supernet takes it.

    Returns:
        Logits (B, K).

    Example:
        >>> from selfexplain.spaces import build_supernet
        >>> supernet = build_supernet(
        ...     "nasbench201", num_classes=2, in_channels=1, image_size=4, channels=2, cells=1
        ... ).double()
        >>> x, architecture = torch.randn(3, 1, 4, 4).double(), supernet.new_architecture()
        >>> torch.allclose(plain_logits(supernet, x, architecture), supernet(x, architecture))
        True
    """
    network: Any = supernet.network
    architecture = supernet.checked(architecture, x_BCHW)
    if supernet.family in ("nasbench201", "tiny201"):
        weights_EO = architecture["cell"].softmax(-1)
        h = network.stem(x_BCHW)
        for block in network.blocks:
            is_cell = not isinstance(block, ResidualReduction)
            h = _nasbench201_cell(block, h, weights_EO) if is_cell else block(h)
        h = network.norm(h)
    else:
        partial = isinstance(supernet, PCDARTSSupernet)
        before, h = network.stem(x_BCHW)
        for cell, reduces in zip(network.cells, network.reduces, strict=True):
            name = "reduce" if reduces else "normal"
            weights_EO = architecture[name].softmax(-1)
            edges_E = edge_softmax(architecture[f"{name}_edges"]) if partial else None
            before, h = h, _darts_cell(cell, before, h, weights_EO, edges_E)
    logits_BK: Tensor = network.head(network.pool(h).flatten(1))
    return logits_BK


def _nasbench201_cell(cell: Any, x_BCHW: Tensor, weights_EO: Tensor) -> Tensor:
    nodes, row = [x_BCHW], 0
    for target in range(1, len(cell.senders) + 1):
        arrived = []
        for source in range(target):
            for o, name in enumerate(FAMILIES["nasbench201"].operations):
                h = _operation(name, nodes[source], cell.senders[source], target - source - 1)
                arrived.append(weights_EO[row, o] * h)
            row += 1
        nodes.append(total(arrived))
    return nodes[-1]


def _darts_cell(
    cell: Any,
    second_last_BCHW: Tensor,
    last_BCHW: Tensor,
    weights_EO: Tensor,
    edge_weights_E: Tensor | None,
) -> Tensor:
    nodes, row = cell.inputs(second_last_BCHW, last_BCHW), 0
    for target in range(2, 6):
        arrived = []
        for source in range(target):
            sender = cell.senders[source]
            edge = target - max(source + 1, 2)
            if edge_weights_E is None:
                arrived.append(_darts_edge(nodes[source], sender, edge, weights_EO[row]))
            else:
                h = _pcdarts_edge(nodes[source], sender.sender, edge, weights_EO[row])
                arrived.append(edge_weights_E[row] * h)
            row += 1
        nodes.append(total(arrived))
    return torch.cat(nodes[2:], dim=1)


def _darts_edge(x_BCHW: Tensor, sender: Any, edge: int, weight_O: Tensor) -> Tensor:
    names = FAMILIES["darts"].operations
    results = [_operation(name, x_BCHW, sender, edge) for name in names]
    return total([w * h for w, h in zip(weight_O, results, strict=True)])


def _pcdarts_edge(x_BCHW: Tensor, sender: Any, edge: int, weight_O: Tensor) -> Tensor:
    quarter = x_BCHW.shape[1] // 4
    mixed = _darts_edge(x_BCHW[:, :quarter], sender, edge, weight_O)
    past = x_BCHW[:, quarter:]
    past = past if sender.stride == 1 else F.max_pool2d(past, 2, 2)
    h = torch.cat([mixed, past], dim=1)
    grouped = h.reshape(h.shape[0], 4, quarter, *h.shape[2:])
    return grouped.transpose(1, 2).reshape(h.shape)


def _operation(name: str, x_BCHW: Tensor, sender: Any, edge: int) -> Tensor:
    stride = sender.stride
    if name == "none":
        return torch.zeros_like(x_BCHW[:, :, ::stride, ::stride])
    if name == "skip_connect" and stride == 1:
        return x_BCHW
    if name == "max_pool_3x3":
        return _batch_norm(F.max_pool2d(x_BCHW, 3, stride, padding=1), sender.pool_norms[name])
    if name == "avg_pool_3x3":
        h = F.avg_pool2d(x_BCHW, 3, stride, padding=1, count_include_pad=False)
        return _batch_norm(h, sender.pool_norms[name]) if sender.pool_norms else h
    bundle, place = divmod(edge, sender.bundle)
    module = sender.bundles[bundle][name]
    h = F.relu(x_BCHW)
    for layer in (*module.layers, module.norm):
        h = _layer(layer, h, place, sender.bundle)
    return h


def _layer(layer: nn.Module, x_BCHW: Tensor, place: int, edges: int) -> Tensor:
    """What a layer that serves several edges does for the one at a place."""
    if isinstance(layer, FactorizedReduce):
        even, odd = (c.weight.chunk(edges)[place] for c in (layer.even, layer.odd))
        # sliced, not strided: models/pointwise.py says why
        halves = F.conv2d(x_BCHW[:, :, ::2, ::2], even), F.conv2d(x_BCHW[:, :, 1::2, 1::2], odd)
        return torch.cat(halves, dim=1)
    if isinstance(layer, nn.Conv2d):
        weight = layer.weight.chunk(edges)[place]
        groups = x_BCHW.shape[1] // weight.shape[1]
        padding = (
            layer.dilation[0] * (weight.shape[2] // 2),
            layer.dilation[1] * (weight.shape[3] // 2),
        )
        return F.conv2d(x_BCHW, weight, None, layer.stride, padding, layer.dilation, groups)
    if isinstance(layer, nn.BatchNorm2d):
        return _batch_norm(x_BCHW, layer, place, edges)
    return F.relu(x_BCHW) if isinstance(layer, nn.ReLU) else x_BCHW


def _batch_norm(x_BCHW: Tensor, norm: nn.BatchNorm2d, place: int = 0, edges: int = 1) -> Tensor:
    if norm.training:
        return F.batch_norm(x_BCHW, None, None, training=True, eps=norm.eps)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = (s.chunk(edges)[place] for s in (norm.running_mean, norm.running_var))
    return F.batch_norm(x_BCHW, mean, variance, eps=norm.eps)
