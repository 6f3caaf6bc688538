"""Why a learner refuses a message, and how text from outside is shown in the log.

Whoever has the token may still send nonsense: a bug, another version, or a bad actor. Each check raises `RefusedError`
with one of `REASONS`, by which refusals are counted. Not here: the counts and the lines (mlma/monitoring/refusals.py).
"""

from __future__ import annotations

from mlma.utils.user_text import escaped

MAX_SHOWN_CHARACTERS = 200  # of text from outside, in a line of the log

REASONS = {
    "malformed": "it is damaged, of another protocol, or has a header that is no JSON object",
    "header": "a field of its header is missing, of another type or out of range",
    "actor": "the actor's number is out of range, or the learner keeps track of too many actors already",
    "parts": "a part is missing, or parts are too many or too large",
    "not_finite": "a number in a trajectory or a request is NaN or infinite",
    "out_of_range": "a number in a trajectory or a request is one that its field does not allow",
    "session": "its inference session is unknown or has expired",
    "handshake": "the actor's settings differ from the learner's",
    "too_often": "the actor connects too often",
    "memory": "there is no memory or no descriptor left to handle it",
}


class RefusedError(ValueError):
    """A message or a handshake that is not accepted, for one of `REASONS`."""

    def __init__(self, reason: str, text: str) -> None:
        assert reason in REASONS, reason
        super().__init__(text)
        self.reason = reason


def shown(value: object, limit: int = MAX_SHOWN_CHARACTERS) -> str:
    """The text of a value from outside on one line: cut to `limit` characters, without codes that move a cursor."""
    text = value if isinstance(value, str) else repr(value)
    line = escaped(text[:limit])
    return line if len(text) <= limit and len(line) <= limit else f"{line[: limit - 3]}..."
