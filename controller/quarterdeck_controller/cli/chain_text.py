"""Print links of the chain of trust, for people and for scripts."""

from collections.abc import Sequence

from quarterdeck_controller.cli.output import out
from quarterdeck_controller.release.links import Link

OK, WRONG = "verified", "WRONG"


def print_links(links: Sequence[Link]) -> None:
    """Print the links, the first one on top, each with whether it holds now."""
    width = max((len(link.name) for link in links), default=0)
    for number, link in enumerate(links):
        last = number == len(links) - 1
        branch, stem = ("└─", "  ") if last else ("├─", "│ ")
        standing = f"{OK if link.verified else WRONG:<{len(OK)}}"
        mark = f"[{'green' if link.verified else 'bold red'}]{standing}[/]"
        out.print(f"{branch} [bold]{link.name:<{width}}[/]  ", mark, sep="", end="  ")
        first, *others = link.told or ("",)
        out.print(first, markup=False)
        blank = " " * (width + len(OK) + 5)
        for line in others:
            out.print(f"{stem}{blank}{line}", markup=False)
        if link.wrong:
            out.print(f"{stem}{blank}! {link.wrong}", markup=False, style="red")


def links_json(links: Sequence[Link]) -> list[dict[str, object]]:
    """Return the links as scripts see them."""
    return [
        {
            "link": link.name,
            "verified": link.verified,
            "wrong": link.wrong or None,
            **link.facts,
        }
        for link in links
    ]
