"""Small networks for the tests of explanations; each splits into features(x) and rest(a)."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn


class FunctionalNet(nn.Module):
    """The map that is pooled is the result of a function; ReLUs are in place."""

    def __init__(self, pool="avg_pool2d", classes=5, dropout=0.0):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 7, 3, stride=2, padding=1), nn.BatchNorm2d(7)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(7, classes)
        self.pool = pool

    def early(self, x):
        return self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True))

    def features(self, x):
        return self.after_early(self.early(x))

    def after_early(self, h):
        return F.relu(self.bn2(h), inplace=True)

    def rest(self, h):
        pooled = {
            "avg_pool2d": lambda: F.avg_pool2d(h, h.shape[-1]).flatten(1),
            "mean": lambda: h.mean((2, 3)),
            "adaptive": lambda: F.adaptive_avg_pool2d(h, 1).squeeze(-1).squeeze(-1),
            "reshape": lambda: h.reshape(*h.shape[:2], -1).mean(-1),
            "tokens": lambda: h.flatten(2).transpose(1, 2).mean(1),
            "max": lambda: h.amax((2, 3)),
        }[self.pool]()
        return self.head(self.dropout(pooled))

    def forward(self, x):
        return self.rest(self.features(x))


class Block(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1)
        self.bn1, self.bn2 = nn.BatchNorm2d(c_out), nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1)
        self.shortcut = nn.Conv2d(c_in, c_out, 1, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        h = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        h += self.shortcut(x)
        return self.relu(h)


def residual_net(classes=5):
    """Pooling is a module."""
    return nn.Sequential(
        OrderedDict(
            layer1=Block(3, 6, 1),
            layer2=Block(6, 8, 2),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            dropout=nn.Dropout(0.5),
            fc=nn.Linear(8, classes),
        )
    )


class ViT(nn.Module):
    """Prefix tokens, then patches; the head reads the first token, or the mean of the patches."""

    def __init__(self, prefix=1, patch=4, depth=2, read="token"):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 8, patch, patch)
        self.prefix = nn.Parameter(torch.randn(1, prefix, 8))
        self.blocks = nn.Sequential(*[AttentionBlock(8) for _ in range(depth)])
        self.norm, self.head, self.read = nn.LayerNorm(8), nn.Linear(8, 5), read

    def forward(self, x):
        t = self.patch_embed(x).flatten(2).transpose(1, 2)
        t = torch.cat([self.prefix.expand(len(x), -1, -1), t], 1)
        t = self.norm(self.blocks(t))
        return self.head(t[:, 0] if self.read == "token" else t[:, self.prefix.shape[1] :].mean(1))


class AttentionBlock(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.proj, self.attn_drop = nn.Linear(d, 3 * d), nn.Linear(d, d), nn.Dropout(0.0)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, t):
        q, k, v = self.qkv(self.norm1(t)).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        weights = self.attn_drop((q @ k.transpose(-1, -2)).softmax(-1))
        t = t + self.proj((weights @ v).transpose(1, 2).flatten(2))
        return t + self.mlp(self.norm2(t))


def warmed(model, dtype=torch.float64, size=12):
    """Give BatchNorm statistics that are not the initial ones."""
    model = model.to(dtype).train()
    for _ in range(3):
        model(torch.randn(6, 3, size, size, dtype=dtype))
    return model.eval()
