"""Where the time goes: the kernels of float and variant as two bars. Pure."""

from collections.abc import Iterator, Sequence

from quarterdeck_controller.optimize.report import wording
from quarterdeck_controller.optimize.report.markup import Markup, element, together
from quarterdeck_controller.optimize.search.story import Story, TimeShare

CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
SHADES = 3
LETTER = 0.011
"""What a letter takes of the width of a bar; a piece too narrow has no name."""
MOST_SHOWN = 14


def time_bars(story: Story, latency_ratio: float | None) -> Markup:
    """Return one bar for float and one for the variant, to one scale."""
    ratio = latency_ratio or 1.0
    longest = max(1.0, ratio)
    parts = [
        element("p", "float: 100 %", class_="note"),
        _bar(story.float_time, 1.0 / longest),
    ]
    if story.variant_time:
        told = f"variant: {100 * ratio:.0f} % of float's time"
        parts.append(element("p", told, class_="note"))
        parts.append(_bar(story.variant_time, ratio / longest))
    return element("div", *parts, _legend())


def time_table(story: Story, latency_ratio: float | None) -> Markup:
    """Return the same as a table, the variant's shares in float's time too."""
    heads = ("kernel", "integer", "of float", "share", "of variant", "share")
    float_time = {one.operator: one for one in story.float_time}
    variant = {one.operator: one for one in story.variant_time}
    ratio = latency_ratio or 1.0
    names = sorted(
        {**float_time, **variant},
        key=lambda name: -max(_share(float_time, name), ratio * _share(variant, name)),
    )
    rows = [
        element(
            "tr",
            element("td", name, class_="mono"),
            element("td", "yes" if _is_integer(name, variant) else ""),
            *_cells(float_time.get(name)),
            *_cells(variant.get(name)),
        )
        for name in names[:MOST_SHOWN]
    ]
    head = [
        element("th", one, class_="num" if n > 1 else None)
        for n, one in enumerate(heads)
    ]
    return element(
        "table", element("thead", element("tr", *head)), element("tbody", *rows)
    )


def order(one: TimeShare) -> tuple[int, float]:
    """Return where a kernel stands in its bar: integers first, then by time."""
    return ("i", "q", "f").index(kind(one)), -one.share


def named(one: TimeShare, width: float) -> bool:
    """Return whether a piece of a bar has room for its name."""
    return one.share * width > LETTER * (len(one.operator) + 1)


def kind(one: TimeShare) -> str:
    """Return ``i`` for integers, ``q`` for conversions between, ``f`` for float."""
    if one.operator in CONVERSIONS:
        return "q"
    return "i" if one.integer else "f"


def _bar(shares: Sequence[TimeShare], width: float) -> Markup:
    total = sum(one.share for one in shares) or 1.0
    pieces = together(_pieces(shares, total, width))
    return element("div", pieces, class_="stack", style=f"width:{100 * width:.2f}%")


def _pieces(
    shares: Sequence[TimeShare], total: float, width: float
) -> Iterator[Markup]:
    seen = {"i": 0, "f": 0, "q": 0}
    for one in sorted(shares, key=order):
        group = kind(one)
        shade = seen[group] % SHADES if group != "q" else 0
        seen[group] += 1
        told = f"{one.operator}, {one.count}: {wording.percent(one.share)} %"
        yield element(
            "span",
            one.operator if named(one, width / total) else "",
            class_=f"{group}{shade}",
            style=f"width:{100 * one.share / total:.2f}%",
            title=told,
        )


def _legend() -> Markup:
    told = (
        ("i0", "multiplies integers"),
        ("q0", "converts between integers and float"),
        ("f0", "computes in float"),
    )
    return element(
        "ul",
        *(
            element("li", element("span", class_=f"key {key}"), words)
            for key, words in told
        ),
        class_="legend",
    )


def _cells(one: TimeShare | None) -> tuple[Markup, Markup]:
    if one is None:
        return element("td", "", class_="num"), element("td", "", class_="num")
    share = f"{wording.percent(one.share)} %"
    return (
        element("td", str(one.count), class_="num"),
        element("td", share, class_="num"),
    )


def _share(shares: dict[str, TimeShare], name: str) -> float:
    return shares[name].share if name in shares else 0.0


def _is_integer(name: str, shares: dict[str, TimeShare]) -> bool:
    return name in shares and shares[name].integer
