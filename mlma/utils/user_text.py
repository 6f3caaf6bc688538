"""Text that users typed or that stands in their files: safe to show in a message, and checked before it is used."""

from __future__ import annotations

import unicodedata

MAX_SHOWN_CHARACTERS = 200  # of a value in a message
MAX_LINE_CHARACTERS = 2000  # of a whole message
REFUSED_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")  # control characters, lone surrogates, separators of lines


def escaped(text: str) -> str:
    """`text` with everything escaped that a terminal would not show as it is."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable(text: str, longest: int = MAX_LINE_CHARACTERS) -> str:
    """`text` in one line that a terminal can show: everything unprintable is escaped, and the end cut off."""
    start = escaped(text[:longest])
    return start if len(text) <= longest else f"{start}... ({len(text):,} characters)"


def shown(text: str) -> str:
    """A user's value as it stands in a message."""
    return printable(text, MAX_SHOWN_CHARACTERS)


def check_text(text: str, longest: int) -> None:
    """ValueError that says what is allowed, for text that no path, name or command may contain."""
    if len(text) > longest:
        raise ValueError(f"must have at most {longest} characters, has {len(text)}")
    if any(unicodedata.category(c) in REFUSED_CATEGORIES for c in text):
        raise ValueError("must be UTF-8 text without control characters")
