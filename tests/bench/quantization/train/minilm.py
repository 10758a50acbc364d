"""Export all-MiniLM-L6-v2 from its weights: tokens in, one sentence vector out.

Devlin et al., "BERT", arXiv:1810.04805; the mask is added before the softmax as the
lowest float32, as the exporters of this model write it.
"""

# mypy: disable-error-code="misc,no-any-return"
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, LAYERS, INNER = 384, 12, 6, 1536
VOCABULARY, POSITIONS, TYPES = 30522, 512, 2
EPSILON = 1e-12


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.mixed = (
            nn.Linear(WIDTH, WIDTH) for _ in range(4)
        )
        self.norm, self.last = (nn.LayerNorm(WIDTH, EPSILON) for _ in range(2))
        self.up, self.down = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        def heads(y: Tensor) -> Tensor:
            return y.view(y.shape[0], -1, HEADS, WIDTH // HEADS).transpose(1, 2)

        weights = heads(self.query(x)) @ heads(self.key(x)).transpose(-1, -2)
        weights = (weights / (WIDTH // HEADS) ** 0.5 + mask).softmax(-1)
        seen = (weights @ heads(self.value(x))).transpose(1, 2)
        x = self.norm(x + self.mixed(seen.reshape(x.shape[0], -1, WIDTH)))
        return self.last(x + self.down(functional.gelu(self.up(x))))


class MiniLm(nn.Module):
    """Token ids and attention mask [N, T] in, unit vectors [N, 384] out."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.places = nn.Embedding(POSITIONS, WIDTH)
        self.types = nn.Embedding(TYPES, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, EPSILON)
        self.layers = nn.ModuleList(_Layer() for _ in range(LAYERS))

    def forward(self, ids: Tensor, attention: Tensor) -> Tensor:
        """Return the mean of the last layer over the tokens, of length one."""
        seen = attention.to(torch.float32)
        mask = (1 - seen)[:, None, None, :] * torch.finfo(torch.float32).min
        places = torch.arange(ids.shape[1])[None]
        kind = self.types(torch.zeros_like(ids))
        x = self.norm(self.words(ids) + kind + self.places(places))
        for layer in self.layers:
            x = layer(x, mask)
        total = (x * seen[:, :, None]).sum(1)
        return functional.normalize(total / seen.sum(1, keepdim=True), dim=1)


NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "mixed": "attention.output.dense",
    "norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "last": "output.LayerNorm",
}
"""Parts of a layer, by their names in the checkpoint."""


def load(weights: dict[str, Tensor]) -> MiniLm:
    """Return the model with the checkpoint's ``weights``."""
    model, held = MiniLm(), {}
    for ours, theirs in (("words", "word"), ("places", "position")):
        held[f"{ours}.weight"] = weights[f"embeddings.{theirs}_embeddings.weight"]
    held["types.weight"] = weights["embeddings.token_type_embeddings.weight"]
    for part in ("weight", "bias"):
        held[f"norm.{part}"] = weights[f"embeddings.LayerNorm.{part}"]
        for number in range(LAYERS):
            for ours, theirs in NAMES.items():
                held[f"layers.{number}.{ours}.{part}"] = weights[
                    f"encoder.layer.{number}.{theirs}.{part}"
                ]
    model.load_state_dict(held, strict=True)
    return model.eval()


def main(data: Path, out: Path) -> None:
    """Export the model with free batch size and length."""
    torch.set_num_threads(1)
    with np.load(data, allow_pickle=False) as arrays:
        weights = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    example = torch.ones(2, 16, dtype=torch.int64)
    free = {0: "batch", 1: "tokens"}
    torch.onnx.export(
        load(weights),
        (example, example),
        str(out),
        input_names=["input_ids", "attention_mask"],
        output_names=["sentence"],
        dynamic_axes={
            "input_ids": free,
            "attention_mask": free,
            "sentence": {0: "batch"},
        },
        opset_version=17,
        dynamo=False,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
