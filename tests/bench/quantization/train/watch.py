"""Train small nets of four kinds on the smartwatch exercises: [N, 6, 200] to [N, 7].

``mobile`` has depthwise convolutions, squeeze-excite and swish (Howard et al.,
"Searching for MobileNetV3", arXiv:1905.02244); ``lstm`` and ``gru`` are recurrent;
``vit`` is a transformer over patches (Dosovitskiy et al., arXiv:2010.11929).
"""

# mypy: disable-error-code="misc,no-any-return"
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

CHANNELS, SAMPLES, CLASSES = 6, 200, 7
EPOCHS, BATCH, RATE = 12, 64, 3e-3


class _Inverted(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        wide = 3 * channels
        self.expand = nn.Sequential(
            nn.Conv1d(channels, wide, 1, bias=False), nn.BatchNorm1d(wide), nn.SiLU()
        )
        self.depth = nn.Sequential(
            nn.Conv1d(wide, wide, 5, stride, 2, groups=wide, bias=False),
            nn.BatchNorm1d(wide),
            nn.SiLU(),
        )
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool1d(1),
            nn.Conv1d(wide, wide // 4, 1),
            nn.SiLU(),
            nn.Conv1d(wide // 4, wide, 1),
            nn.Sigmoid(),
        )
        self.project = nn.Sequential(
            nn.Conv1d(wide, out, 1, bias=False), nn.BatchNorm1d(out)
        )
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y = self.depth(self.expand(x))
        y = self.project(y * self.squeeze(y))
        return x + y if self.residual else y


class Mobile(nn.Module):
    """Inverted residuals with squeeze-excite and swish."""

    def __init__(self) -> None:
        super().__init__()
        shape = [(24, 32, 2), (32, 32, 1), (32, 48, 2), (48, 48, 1)]
        self.layers = nn.Sequential(
            nn.BatchNorm1d(CHANNELS),
            nn.Conv1d(CHANNELS, 24, 5, 2, 2, bias=False),
            nn.BatchNorm1d(24),
            nn.SiLU(),
            *(_Inverted(*sizes) for sizes in shape),
            nn.Conv1d(48, 128, 1, bias=False),
            nn.BatchNorm1d(128),
            nn.SiLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Dropout(0.4),
            nn.Linear(128, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return a score for each class."""
        return self.layers(x)


class Recurrent(nn.Module):
    """A recurrent layer in both directions; the mean of its outputs is classified."""

    def __init__(self, layer: type[nn.Module]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(CHANNELS)
        self.thin = nn.AvgPool1d(2)
        self.layer = layer(CHANNELS, 56, batch_first=True, bidirectional=True)
        self.drop = nn.Dropout(0.4)
        self.head = nn.Linear(112, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return a score for each class."""
        seen, _ = self.layer(self.thin(self.norm(x)).transpose(1, 2))
        return self.head(self.drop(seen.mean(1)))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        shape = (x.shape[0], -1, self.heads, self.width // self.heads)
        parts = self.qkv(self.first(x)).split(self.width, dim=-1)
        query, key, value = (part.view(shape).transpose(1, 2) for part in parts)
        weights = (query @ key.transpose(-1, -2) / shape[-1] ** 0.5).softmax(-1)
        seen = (weights @ value).transpose(1, 2).reshape(x.shape)
        x = x + self.mixed(seen)
        return x + self.down(functional.gelu(self.up(self.second(x))))


class Vit(nn.Module):
    """A transformer over patches of ten samples."""

    def __init__(self) -> None:
        super().__init__()
        width = 64
        self.norm = nn.BatchNorm1d(CHANNELS)
        self.patches = nn.Conv1d(CHANNELS, width, 10, 10)
        self.places = nn.Parameter(0.02 * torch.randn(1, SAMPLES // 10, width))
        self.layers = nn.Sequential(*(_Attention(width, 4) for _ in range(3)))
        self.last, self.drop = nn.LayerNorm(width), nn.Dropout(0.3)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return a score for each class."""
        seen = self.patches(self.norm(x)).transpose(1, 2) + self.places
        return self.head(self.drop(self.last(self.layers(seen)).mean(1)))


def build(kind: str) -> nn.Module:
    """Return an untrained net."""
    kinds = {"lstm": nn.LSTM, "gru": nn.GRU}
    if kind in kinds:
        return Recurrent(kinds[kind])
    return {"mobile": Mobile, "vit": Vit}[kind]()


def train(net: nn.Module, x: Tensor, labels: Tensor) -> nn.Module:
    """Return the trained net."""
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=0.05)
    batches = -(-len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=EPOCHS * batches
    )
    for _ in range(EPOCHS):
        for picked in torch.randperm(len(labels)).split(BATCH):
            seen = x[picked] * (1 + 0.2 * torch.randn(len(picked), CHANNELS, 1))
            seen = seen + 0.1 * torch.randn_like(seen)
            loss = functional.cross_entropy(net(seen), labels[picked])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1)
            optimizer.step()
            schedule.step()
    return net.eval()


def main(data: Path, out: Path) -> None:
    """Train and export the net whose kind the data names."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    with np.load(data, allow_pickle=False) as arrays:
        x, labels = (torch.from_numpy(arrays[name]) for name in ("x", "labels"))
        net = train(build(str(arrays["kind"])), x, labels)
    torch.onnx.export(
        net,
        (x[:2],),
        str(out),
        input_names=["motion"],
        output_names=["scores"],
        dynamic_axes={"motion": {0: "batch"}, "scores": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
