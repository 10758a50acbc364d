"""How far the student is from its teacher, and how often it says the same.

Self-distillation (Hinton et al. 2015, arXiv 1503.02531): the divergence of the
student's distribution from the teacher's, step by step where the output is a sequence,
and a little of the squared error, which holds the logits' level.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from quarterdeck_controller.optimize.train.target import Target

LEVEL = 0.02
"""Share of the squared error beside a divergence."""
LABELS = 0.1
"""Share of the labels: calibration samples are few, and learning them by heart is worse
than imitating."""
CLOSE = 0.1
"""Relative error up to which values that are no classes agree."""
MATRIX = 2


def distance(
    targets: Sequence[Target],
    answers: Sequence[Tensor],
    given: Sequence[Tensor],
    labels: Tensor | None = None,
) -> Tensor:
    """Return the loss.

    Args:
        targets: What is imitated, the judged one first.
        answers: The student's tensors.
        given: The teacher's.
        labels: Classes of the judged output, if it is to learn from them.
    """
    total = torch.zeros(())
    for target, answer, wanted in zip(targets, answers, given, strict=True):
        total = total + target.weight * _one(target, answer, wanted)
    if labels is not None:
        logits = answers[0].movedim(targets[0].axis, -1).reshape(len(labels), -1)
        total = total + LABELS * functional.cross_entropy(logits, labels)
    return total


def agreement(target: Target, answer: Tensor, wanted: Tensor) -> float:
    """Return the share of samples, or of their steps, that agree."""
    if has_classes(target, wanted):
        axis = target.axis
        same = answer.argmax(axis) == wanted.argmax(axis)
    elif target.meaning == "chances":
        same = (answer > 0) == (wanted > 0)
    else:
        off = (answer - wanted).reshape(len(wanted), -1).norm(dim=1)
        same = off <= CLOSE * wanted.reshape(len(wanted), -1).norm(dim=1)
    return float(same.float().mean())


def has_classes(target: Target, wanted: Tensor) -> bool:
    """Return whether one of the numbers wins; a plain matrix is taken for scores."""
    if target.meaning == "values":
        return bool(wanted.dim() == MATRIX and wanted.shape[-1] > 1)
    return target.meaning == "classes" and bool(wanted.shape[target.axis] > 1)


def _one(target: Target, answer: Tensor, wanted: Tensor) -> Tensor:
    if target.meaning == "chances":
        return _chances(answer, wanted) + LEVEL * functional.mse_loss(answer, wanted)
    relative = functional.mse_loss(answer, wanted) / wanted.square().mean().clamp_min(
        torch.finfo(torch.float32).tiny
    )
    if target.meaning == "values" and has_classes(target, wanted):
        return _divergence(answer, wanted, target.axis) + relative
    if has_classes(target, wanted):
        squared = functional.mse_loss(answer, wanted)
        return _divergence(answer, wanted, target.axis) + LEVEL * squared
    return relative


def _divergence(answer: Tensor, wanted: Tensor, axis: int) -> Tensor:
    said = functional.log_softmax(answer, axis)
    meant = functional.log_softmax(wanted, axis)
    steps = wanted.numel() // wanted.shape[axis]
    return functional.kl_div(said, meant, reduction="sum", log_target=True) / steps


def _chances(answer: Tensor, wanted: Tensor) -> Tensor:
    """Mean divergence of one chance from another."""
    meant = torch.sigmoid(wanted)
    cross = functional.binary_cross_entropy_with_logits(answer, meant)
    least = functional.binary_cross_entropy_with_logits(wanted, meant)
    return cross - least
