"""Command-line flags made from dataclass fields: parsing, bounds, help, suggestions for typos.

A flag is a field declared with `option`: name, type and default are the field's own; help, bounds and former names are
its metadata. Imports nothing heavy, so a typo is answered at once. Not here: which flags exist
(mlma/core/config/sections.py).
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
import sys
import textwrap
import typing
from collections.abc import Callable, Collection, Iterable
from typing import Any, Literal, TypeVar

from mlma.utils.child_process import EXIT_USAGE
from mlma.utils.console_streams import print_text
from mlma.utils.user_text import check_text, printable, shown

Parsed = TypeVar("Parsed")
TextCheck = Callable[[str], object]  # raises ValueError that says what is allowed
TYPE_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
HELP = "help"  # the value of some flags that prints what they may be
LINE_WIDTH = 118  # of the short help
MAX_SHORT_CHOICES = 4  # that it shows
OWN_NAMES = ("module:NAME", "./file.py:NAME")  # of code of the user's
MAX_TEXT_CHARACTERS = 8192  # of a flag, unless it says otherwise


def option(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Iterable[str] = (),
    former_names: tuple[str, ...] = (),
    group: str = "",
    longest: int = MAX_TEXT_CHARACTERS,
    may_be_empty: bool = False,
    check: TextCheck | None = None,
    or_own: bool = False,
) -> Any:
    """A dataclass field that is also a flag. `former_names` are accepted with a note for one release.

    For text: at most `longest` characters, empty only by default or if it `may_be_empty`, and what `check` accepts.
    With `or_own`, the user's own `module:NAME` is allowed beside the choices.
    """
    metadata = {
        "help": help, "minimum": minimum, "maximum": maximum, "choices": tuple(choices), "former_names": former_names,
        "group": group, "longest": longest, "may_be_empty": may_be_empty or default == "", "check": check,
        "or_own": or_own,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag, as the parser and the help text need it."""

    name: str
    type: Any
    default: Any
    help: str
    group: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    former_names: tuple[str, ...] = ()
    longest: int = MAX_TEXT_CHARACTERS
    may_be_empty: bool = False
    check: TextCheck | None = None
    or_own: bool = False

    @property
    def allowed(self) -> str:
        """What a value may be, in words."""
        own = OWN_NAMES if self.or_own else ()
        return ", ".join((*self.choices, *own)) if self.choices else TYPE_NAMES[self.type]

    def parse(self, text: str) -> Any:
        """Converts `text` to the flag's type; ValueError in one line if that is impossible."""
        if self.choices:
            if text in self.choices:
                return text
            if self.or_own and is_own_name(text):
                return self._checked_text(text)
            hint = did_you_mean(text, self.choices)
            raise ValueError(f"--{self.name}={shown(text)}: must be one of {self.allowed}{hint}")
        if self.type is str:
            return self._checked_text(text)
        try:
            if not text.isascii():
                raise ValueError  # Python reads the digits of all scripts
            if self.type is bool:
                return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
            if self.type is int:
                number = float(text)  # so that 1e9 is an integer too
                if number == int(number):
                    return int(number)
            elif math.isfinite(number := float(text)):
                return number
        except (ValueError, KeyError, OverflowError):
            pass
        raise ValueError(f"--{self.name}={shown(text)}: must be {self.allowed}")

    def _checked_text(self, text: str) -> str:
        try:
            if not text and not self.may_be_empty:
                raise ValueError("must not be empty")
            check_text(text, self.longest)
            module, _, name = text.rpartition(":")
            if self.or_own and not (module and name.isidentifier()):
                raise ValueError(f"must name an object, as in {' or '.join(OWN_NAMES)}")
            if self.check and text:
                self.check(text)
        except ValueError as error:
            raise ValueError(f"--{self.name}={shown(text)}: {error}") from None
        return text

    def check_bounds(self, value: Any) -> None:
        """ValueError in one line for a value below the minimum or above the maximum."""
        if self.minimum is not None and not value >= self.minimum:
            raise ValueError(f"--{self.name}={shown(str(value))}: must be at least {self.minimum}")
        if self.maximum is not None and not value <= self.maximum:
            raise ValueError(f"--{self.name}={shown(str(value))}: must be at most {self.maximum}")

    def format(self, value: Any) -> str:
        """The value as it is typed on a command line."""
        return str(value).lower() if isinstance(value, bool) else str(value)


@functools.cache
def flag_table(cls: type, group: str = "") -> dict[str, Flag]:
    """The flags of a dataclass by name, in order; those of its fields that are dataclasses themselves, one after the
    other."""
    types = typing.get_type_hints(cls)
    found: dict[str, Flag] = {}
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(types[field.name]):
            section = types[field.name]
            found |= flag_table(section, section.__doc__.partition("\n")[0].rstrip("."))
            continue
        metadata, kind = dict(field.metadata), types[field.name]
        group = metadata.pop("group") or group
        if typing.get_origin(kind) is Literal:
            metadata["choices"] = typing.get_args(kind)
        found[field.name] = Flag(field.name, kind, field.default, group=group, **metadata)
    return found


def is_own_name(text: str) -> bool:
    """Whether a value names code of the user's, by its module or file, instead of one of the choices."""
    return ":" in text or text.endswith(".py")


def did_you_mean(word: str, words: Iterable[str], prefix: str = "") -> str:
    """A hint that names the words closest to `word`; empty if none is close."""
    near = difflib.get_close_matches(shown(word), list(words), n=3, cutoff=0.5)
    return f"; did you mean {', '.join(prefix + each for each in near)}?" if near else ""


def current_names(table: dict[str, Flag]) -> dict[str, str]:
    """Former name -> current name."""
    return {former: flag.name for flag in table.values() for former in flag.former_names}


def split_arguments(
    argv: list[str], table: dict[str, Flag], repeated: dict[str, list[str | None]] | None = None
) -> dict[str, str | None]:
    """--name=value, --name value, --name and --noname as name -> text. `repeated` has names that are no flags of the
    table, and gets the texts of each."""
    repeated = repeated or {}
    renamed = current_names(table)
    given: dict[str, str | None] = {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise ValueError(f"{shown(word)}: not a flag; flags look like --level_name=PongNoFrameskip-v4")
        name, equals, text = word[2:].partition("=")
        name = name.replace("-", "_")
        if name in renamed:
            print(f"note: --{name} is now --{renamed[name]}; the former name goes away with 0.3", file=sys.stderr)
            name = renamed[name]
        negated = table.get(name[2:]) if name.startswith("no") and name not in table and not equals else None
        if negated and negated.type is bool:
            name, equals, text = name[2:], "=", "false"
        if name not in table and name not in repeated:
            raise ValueError(f"--{shown(name)}: no such flag{did_you_mean(name, [*table, *repeated], '--')}")
        value: str | None = None
        if equals:
            value = text
        elif rest and not rest[0].startswith("--"):
            value = rest.pop(0)
        if name in repeated:
            repeated[name].append(value)
        else:
            given[name] = value
    return given


def parse_values(given: dict[str, str | None], table: dict[str, Flag]) -> dict[str, Any]:
    """Name -> value, each within the bounds of its flag; ValueError in one line."""
    values = {}
    for name, text in given.items():
        flag = table[name]
        if text is None and flag.type is not bool:
            raise ValueError(f"--{name}: needs a value, {flag.allowed}")
        values[name] = flag.parse("true" if text is None else text)
        flag.check_bounds(values[name])
    return values


def format_flags(table: dict[str, Flag], usage: tuple[str, ...]) -> str:
    """The text of --help."""
    lines, group = [*usage], ""
    for flag in table.values():
        if flag.group != group:
            group = flag.group
            lines += ["", f"{group}:"]
        allowed = f" [{flag.allowed}]" if flag.choices else ""
        lines.append(f"  --{flag.name}={flag.format(flag.default)}")
        lines += textwrap.wrap(flag.help + allowed, width=110, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def format_short(table: dict[str, Flag], usage: tuple[str, ...], usual: Collection[str], program: str) -> str:
    """The text of --help where there are many flags: those that most runs need, with the first clause of their help."""
    flags = {name: flag for name, flag in table.items() if name in usual}
    width = max(len(f"--{flag.name}={flag.format(flag.default)}") for flag in flags.values())
    lines, group = [*usage], ""
    for flag in flags.values():
        if flag.group != group:
            group = flag.group
            lines += ["", f"{group}:"]
        value = f"--{flag.name}={flag.format(flag.default)}"
        choices = f" [{flag.allowed}]" if 0 < len(flag.choices) <= MAX_SHORT_CHOICES else ""
        text = f"{re.split('[;(]', flag.help)[0].strip()}{choices}"
        lines.append(f"  {value:<{width}}  {textwrap.shorten(text, LINE_WIDTH - width - 4, placeholder=' ...')}")
    return "\n".join(
        [
            *lines,
            "",
            f"{program} --help=all: all {len(table)} flags, explained; --help=WORD: those with WORD in their name",
        ]
    )


def matching(table: dict[str, Flag], word: str) -> dict[str, Flag]:
    """The flags of --help=WORD: those with the word in their name or the title of their group; ValueError if none."""
    wanted = word.strip().lower().lstrip("-").replace("-", "_")
    found = {n: flag for n, flag in table.items() if wanted in n or wanted == flag.group.partition(" ")[0].lower()}
    if not found:
        raise ValueError(f"--help={shown(word)}: no such flag; allowed: all, or a part of a name")
    return found


def print_mistake(mistake: ValueError) -> None:
    """Prints what is wrong with flags or files; each of its lines can be shown on a terminal."""
    for line in str(mistake).split("\n"):
        print(printable(line), file=sys.stderr)


def run_parser(argv: list[str], parse: Callable[[list[str]], Parsed], help_text: Callable[[str], str]) -> Parsed:
    """For entry points: --help and --help=WORD print flags and exit with 0; a mistake prints one line and exits with 2.

    `help_text` gets the word, or "".
    """
    asked = [word for word in argv if word in ("-h", "--help") or word.startswith("--help=")]
    try:
        if asked:
            sys.exit(print_text(help_text(asked[0].partition("=")[2])))
        return parse(argv)
    except ValueError as error:
        print_mistake(error)
        sys.exit(EXIT_USAGE)
