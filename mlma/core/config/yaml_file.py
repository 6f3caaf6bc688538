"""The YAML of a file of flags: each value as the text that stands there, so that it means what it means on the command
line.

In YAML 1.1 the words yes, no, on and off are booleans, 010 is 8, 1:30 is 90, and 1e-4 is a text. Here `no` is a text
for a flag that takes text, and a mistake for a flag that is true or false. Anchors, aliases, tags and several documents
are refused: flags have no use for them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

MAX_DEPTH = 20  # of objects and lists in a value
JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
TEXT_TAG = "tag:yaml.org,2002:str"


class Entry(NamedTuple):
    """A flag in a file."""

    name: str
    value: Any
    line: int  # 0 if the parser does not know it


def read_yaml(text: str) -> list[Entry]:
    """The flags in the order of the file; ValueError with the line for anything but one mapping of flags."""
    import yaml  # only who has such a file pays for it

    events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    try:
        return _Reader(yaml, events).flags()
    except yaml.reader.ReaderError as error:
        raise ValueError(f"not YAML: {error.reason}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{where}not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from None


class _Reader:
    """Reads events, not nodes: an event says how a value was written, and nothing is nested before it is checked."""

    def __init__(self, yaml: Any, events: Iterator[Any]) -> None:
        self._yaml, self._events = yaml, events
        self._resolve = yaml.resolver.Resolver().resolve

    def flags(self) -> list[Entry]:
        yaml = self._yaml
        event = self._next()
        while isinstance(event, yaml.StreamStartEvent | yaml.DocumentStartEvent):
            event = self._next()
        if isinstance(event, yaml.StreamEndEvent) or (isinstance(event, yaml.ScalarEvent) and self._is_empty(event)):
            return []  # only comments
        if not isinstance(event, yaml.MappingStartEvent):
            raise _problem(event, "must hold flags, one in each line, such as batch_size: 32")
        found = []
        for name, line, first in self._pairs():
            plain = isinstance(first, yaml.ScalarEvent)
            if plain and self._is_empty(first):
                raise ValueError(f'line {line}: {name}: has no value; an empty text is ""')
            found.append(Entry(name, first.value if plain else self._value(first, 1), line))
        self._next()  # the end of the document
        if not isinstance(event := self._next(), yaml.StreamEndEvent):
            raise _problem(event, "only one YAML document is allowed")
        return found

    def _pairs(self) -> Iterator[tuple[str, int, Any]]:
        """Name, its line, and the first event of its value, of each pair in the mapping that has begun."""
        seen = set()
        while not isinstance(event := self._next(), self._yaml.MappingEndEvent):
            if not isinstance(event, self._yaml.ScalarEvent):
                raise _problem(event, "a name must be text")
            if event.value in seen:
                raise _problem(event, f"{event.value}: is given twice")
            seen.add(event.value)
            yield event.value, event.start_mark.line + 1, self._next()

    def _value(self, event: Any, depth: int) -> Any:
        """A value within an object: that of JSON. What readers of YAML differ about must be written as in JSON."""
        yaml = self._yaml
        if depth > MAX_DEPTH:
            raise _problem(event, f"nested too deeply; at most {MAX_DEPTH} objects and lists")
        if isinstance(event, yaml.MappingStartEvent):
            return {name: self._value(first, depth + 1) for name, _, first in self._pairs()}
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(item := self._next(), yaml.SequenceEndEvent):
                items.append(self._value(item, depth + 1))
            return items
        text, is_plain = event.value, not event.style
        if is_plain and (text in ("true", "false", "null") or JSON_NUMBER.fullmatch(text)):
            return json.loads(text)
        if is_plain and self._resolve(yaml.ScalarNode, text, (True, False)) != TEXT_TAG:
            raise _problem(
                event, f"{text or '(empty)'}: must be written as in JSON: true, false, null, 8, 0.5, or in quotes"
            )
        return text

    def _is_empty(self, event: Any) -> bool:
        return not event.style and event.value in ("", "~", "null")

    def _next(self) -> Any:
        event = next(self._events)
        if isinstance(event, self._yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _problem(event, "anchors (&) and aliases (*) are not allowed")
        if getattr(event, "tag", None):
            raise _problem(event, f"tags such as {event.tag} are not allowed")
        return event


def _problem(event: Any, text: str) -> ValueError:
    return ValueError(f"line {event.start_mark.line + 1}: {text}")
