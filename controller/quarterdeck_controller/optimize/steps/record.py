"""What requests and answers have in common."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

StepName = Literal[
    "load",
    "inspect",
    "export",
    "prepare",
    "repair",
    "calibrate",
    "build",
    "finish",
    "run",
    "score",
    "emulate",
    "measure",
    "sense",
    "train",
    "replay",
]


class Record(BaseModel):
    """A request or an answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Tensor(Record):
    """An input or output; None is a dimension that is free."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
