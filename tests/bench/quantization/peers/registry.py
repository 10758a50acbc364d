"""The other quantizers, and how each is run."""

from dataclasses import dataclass
from types import MappingProxyType

from tests.bench.quantization.venvs import RUNTIME, TORCH

QUANTIZE_S = 1800
MEMORY_BYTES = 16 << 30
TRANSFORMERS = ("minilm", "watch-vit")
"""Tasks of which a peer that can be told is told that they are transformers."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A quantizer.

    Attributes:
        module: Below ``tests.bench.quantization.peers``.
        how: Its first argument.
        installs: Of its environment; none runs it by our own interpreter.
    """

    module: str
    how: str = "plain"
    installs: tuple[tuple[str, ...], ...] = ()

    def how_for(self, task: str) -> str:
        """Return the argument for that task."""
        if self.module == "nncf" and task in TRANSFORMERS:
            return "transformer"
        return self.how


PEERS: MappingProxyType[str, Peer] = MappingProxyType(
    {
        "ort static": Peer("runtime", "static"),
        "ort channel": Peer("runtime", "channel"),
        "ort dynamic": Peer("runtime", "dynamic"),
        "nncf": Peer("nncf", installs=(TORCH, ("nncf==3.4.0", *RUNTIME))),
        "quark": Peer(
            "quark", installs=(TORCH, ("amd-quark==0.13", "onnxruntime==1.32.0"))
        ),
    }
)
