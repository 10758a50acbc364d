"""Which metric judges: the one that was named, or the one that fits the data.

A metric is named ``name`` or ``name:key=value,...``; ``output=NAME`` goes with all:

- ``top1``, ``topk:k=5``, ``f1`` (``threshold=`` for models of one number a sample),
- ``agreement``, ``closeness``, ``cosine``: with float, without labels,
- ``rmse``, ``sisdr``: to labels that are shaped like the output,
- ``cer:blank=0`` and ``exact:blank=0``, with ``charset=FILE`` for texts
  (``metric.sequences``); ``exact`` without a blank compares every step,
- ``recall:k=1`` (``metric.retrieval``) and ``map:iou=0.5`` (``metric.detection``),
- ``module:function`` or ``file.py:function`` (``metric.given``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import nan
from types import MappingProxyType

import numpy as np

from quarterdeck_controller.optimize.data.entry import names_function
from quarterdeck_controller.optimize.metric.classes import F1, TopK
from quarterdeck_controller.optimize.metric.detection import MeanAveragePrecision
from quarterdeck_controller.optimize.metric.given import ARGUMENTS, make_given
from quarterdeck_controller.optimize.metric.metric import (
    DECIBEL,
    OTHER,
    About,
    Array,
    Metric,
    integers,
    misfit,
)
from quarterdeck_controller.optimize.metric.near import (
    Agreement,
    Closeness,
    Cosine,
    Rmse,
    SiSdr,
)
from quarterdeck_controller.optimize.metric.retrieval import Recall
from quarterdeck_controller.optimize.metric.sequences import (
    Cer,
    Decoder,
    Exact,
    read_charset,
)

Values = Mapping[str, str]
Maker = Callable[[About, Values], Metric]


def choose_metric(
    given: str | None, labels: Array | None, shape: Sequence[int | None] | None
) -> Metric:
    """Return the metric that ``given`` names, or the one that fits the data.

    Args:
        given: As the operator named it; None or empty is the one that fits.
        labels: One entry per sample.
        shape: Of the judged output, samples first; None where it differs by sample.

    Raises:
        RejectedError: ``DATA_INVALID`` when there is no such metric, or when no metric
            fits the labels.
    """
    return parse_metric(given or fitting(labels, shape))


def fitting(labels: Array | None, shape: Sequence[int | None] | None) -> str:
    """Return the name of the metric that fits labels and the shape of the output.

    Raises:
        RejectedError: ``DATA_INVALID`` when none does without being named.
    """
    rank = None if shape is None else len(shape)
    classes = shape[1] if shape is not None and rank == len(("n", "classes")) else None
    if labels is None:
        return "agreement" if classes is not None and classes > 1 else "closeness"
    if integers(labels):
        if classes is not None and classes > 1:
            return "top1"
        if rank == 1 or classes == 1:
            return "top1" if bool(np.isin(labels, (0, 1)).all()) else "rmse"
    elif labels.dtype.kind in "iub":
        _check_places(labels, shape)
        return _fitting_places(labels, shape)
    elif labels.dtype.kind == "f":
        if labels.ndim == 1 and classes is not None and classes > 1:
            raise misfit(
                f"labels are {labels.dtype}, one a sample, for scores of shape "
                f"{_show(shape or ())}: if they number the classes, save them with "
                ".astype('int64')"
            )
        return "rmse"
    told = "that differ by sample" if shape is None else f"of shape {_show(shape)}"
    raise misfit(
        f"no metric goes without saying for labels of {labels.dtype} and shape "
        f"{list(labels.shape)} with scores {told}, which are not [samples, classes]: "
        "name one with --metric, or leave the labels out to judge by agreement with "
        "float"
    )


def parse_metric(given: str) -> Metric:
    """Return the metric that ``given`` names; see the module.

    Raises:
        RejectedError: ``DATA_INVALID`` when there is no such metric or argument.
    """
    name, _, rest = given.partition(":")
    if name in BUILT_IN:
        about, keys, make = BUILT_IN[name]
    else:
        function, _, rest = rest.partition(":")
        entry = f"{name}:{function}"
        if not names_function(entry):
            raise misfit(
                f"there is no metric {given}; there are {', '.join(BUILT_IN)}, or a "
                "function of your own, module:function or file.py:function"
            )
        about, keys = About(""), ARGUMENTS
        make = partial(_given, entry)
    values = _arguments(given, rest, (*keys, "output"))
    about = replace(about, name=given, output=values.get("output", ""))
    try:
        return make(about, values)
    except ValueError as error:
        raise misfit(f"the metric {given}: {error}") from error


def _check_places(labels: Array, shape: Sequence[int | None] | None) -> None:
    """Refuse class numbers in the shapes that would pass for sequences."""
    if shape is None or len(shape) != len(("n", "classes")):
        return
    told = f"labels have shape {list(labels.shape)} with scores {_show(shape)}: "
    if labels.shape[1:] == (1,):
        raise misfit(f"{told}bring the number of the class as [samples], labels[:, 0]")
    if labels.shape[1:] == tuple(shape[1:]) and bool(np.isin(labels, (0, 1)).all()):
        raise misfit(
            f"{told}where one class is marked bring its number, labels.argmax(axis=1); "
            "for anything else name the metric"
        )


def _fitting_places(labels: Array, shape: Sequence[int | None] | None) -> str:
    padded = bool((labels < 0).any())
    rank = labels.ndim + 1
    if shape is None or len(shape) != rank:
        return "cer"
    same = labels.shape[1:] in {tuple(shape[1:-1]), tuple(shape[2:])}
    sequence = labels.ndim == len(("samples", "length"))
    return "cer" if sequence and (padded or not same) else "top1"


def _arguments(given: str, rest: str, known: Sequence[str]) -> Values:
    found: dict[str, str] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals or key not in known:
            raise misfit(
                f"the metric {given} takes {', '.join(known)} as key=value, not {part}"
            )
        found[key] = value
    return found


def _show(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("any" if d is None else str(d) for d in shape) + "]"


def _given(entry: str, about: About, values: Values) -> Metric:
    return make_given(about, entry, values)


def _top(about: About, values: Values) -> TopK:
    k = int(values.get("k", 1))
    if k < 1:
        raise ValueError(f"k is {k}, it must be 1 at least")
    return TopK(about, k, float(values.get("threshold", nan)))


def _f1(about: About, values: Values) -> F1:
    return F1(_top(about, values))


def _decoder(values: Values, blank: int | None) -> Decoder:
    blank = int(values["blank"]) if "blank" in values else blank
    charset = read_charset(values["charset"], blank) if "charset" in values else {}
    return Decoder(blank, charset)


def _map(about: About, values: Values) -> MeanAveragePrecision:
    iou = float(values.get("iou", "0.5"))
    if not 0 < iou <= 1:
        raise ValueError(f"iou is {iou}, it must be above 0 and at most 1")
    named = {key: values.get(key, "") for key in ("boxes", "scores", "classes")}
    return MeanAveragePrecision(about, iou, **named)


_FLOAT = About("", labelled=False)
BUILT_IN: Mapping[str, tuple[About, tuple[str, ...], Maker]] = MappingProxyType(
    {
        "top1": (About(""), ("threshold",), _top),
        "topk": (About(""), ("k",), lambda a, v: _top(a, {"k": "5", **v})),
        "f1": (About(""), ("threshold",), _f1),
        "cer": (
            About("", lower_is_better=True),
            ("blank", "charset"),
            lambda a, v: Cer(a, _decoder(v, 0)),
        ),
        "exact": (
            About(""),
            ("blank", "charset"),
            lambda a, v: Exact(a, _decoder(v, None)),
        ),
        "recall": (
            About("", labels_are_groups=True),
            ("k",),
            lambda a, v: Recall(a, int(v.get("k", 1))),
        ),
        "map": (About(""), ("iou", "boxes", "scores", "classes"), _map),
        "rmse": (
            About("", unit=OTHER, lower_is_better=True),
            (),
            lambda a, _: Rmse(a),
        ),
        "sisdr": (About("", unit=DECIBEL), (), lambda a, _: SiSdr(a)),
        "agreement": (_FLOAT, (), lambda a, _: Agreement(a)),
        "closeness": (_FLOAT, (), lambda a, _: Closeness(a)),
        "cosine": (_FLOAT, (), lambda a, _: Cosine(a)),
    }
)
"""Each metric's description, what arguments it takes, and how it is made."""
