"""Text of somebody else, as it may be shown: in a log, on a terminal.

A device, a broker or a request brings words that people read. None of them may begin
a line of its own in a log, clear a screen, or write from right to left.
"""


def plain(text: str, *, keep: str = "") -> str:
    """Return ``text`` with everything spelled out that is not shown as itself.

    ``keep`` holds the characters that stay all the same, such as a line break.
    """
    if text.isprintable():
        return text
    return "".join(
        it if it.isprintable() or it in keep else _spelled(it) for it in text
    )


def _spelled(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
