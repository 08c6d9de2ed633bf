"""All operations on all edges that leave one node of a mixed cell.

Shape suffixes: B batch, C channels, H and W space, E edges, O operations.
"""

import torch
from torch import Tensor, nn

from selfexplain.spaces.genotype import FAMILIES
from selfexplain.spaces.mixing import Parts, combinations, total
from selfexplain.spaces.operations import PREPARATIONS, Weighted, operation


class Sender(nn.Module):
    """What a node sends to all later ones, each edge the weighted sum of its operations.

    What has no weights of its own is computed once for all edges: the ReLU, the poolings and, in a
    supernet of DARTS, the BatchNorms behind the poolings. These have no scale and shift, and the
    running statistics of one for each edge would be equal, as all would see the same features.

    What has weights is computed edge by edge, or for all edges bundled in convolutions of E times
    the channels and as many groups. BatchNorms go channel by channel and see no difference.

    Args:
        family: key of `FAMILIES`; its operations are mixed.
        channels: channels C of the node.
        edges: number E of later nodes.
        stride: of the edges; edges that leave the same node have the same.
        bundled: compute the edges together: faster for few channels and small images, where the
            number of calls is what costs.
        pool_norms: put BatchNorms behind the poolings.

    Shapes:
        input (B, C, H, W) and weights (E, O); output E tensors (B, C, H / stride, W / stride).
    """

    def __init__(
        self,
        family: str,
        channels: int,
        edges: int,
        stride: int = 1,
        *,
        bundled: bool,
        pool_norms: bool = False,
    ) -> None:
        super().__init__()
        self.names = FAMILIES[family].operations
        self.channels = channels
        self.stride = stride
        self.bundle = edges if bundled else 1
        computed = [name for name in self.names if name != "none"]
        self.shared = [name for name in computed if operation(name, stride).layers is None]
        self.pool_norms = nn.ModuleDict(
            {
                name: nn.BatchNorm2d(channels, affine=False)
                for name in self.shared
                if pool_norms and "pool" in name
            }
        )
        self.bundles = nn.ModuleList(
            nn.ModuleDict(
                {
                    name: Weighted(name, channels, stride, affine=False, edges=self.bundle)
                    for name in computed
                    if name not in self.shared
                }
            )
            for _ in range(edges // self.bundle)
        )

    def forward(self, x_BCHW: Tensor, weights_EO: Tensor) -> list[Parts]:
        """What each later node receives."""
        columns = [self.names.index(name) for name in self.shared]
        results = [self._shared_result(name, x_BCHW) for name in self.shared]
        sent = combinations(results, weights_EO[:, columns])
        active = PREPARATIONS["relu"](x_BCHW, self.stride)
        scales_OEC = weights_EO.T[:, :, None].repeat(1, 1, self.channels)
        worked: list[Tensor] = []
        for bundle, scales in zip(
            self.bundles, torch.split(scales_OEC, self.bundle, dim=1), strict=True
        ):
            assert isinstance(bundle, nn.ModuleDict)
            scale = dict(zip(self.names, scales.flatten(1).unbind(), strict=True))
            mixed = total([module(active, scale[name]) for name, module in bundle.items()])
            worked.extend(mixed.chunk(self.bundle, dim=1))
        return [(a + b,) for a, b in zip(sent, worked, strict=True)]

    def _shared_result(self, name: str, x_BCHW: Tensor) -> Tensor:
        prepared = PREPARATIONS[operation(name, self.stride).preparation](x_BCHW, self.stride)
        if name not in self.pool_norms:
            return prepared
        normalised: Tensor = self.pool_norms[name](prepared)
        return normalised
