"""Values that no flag, file or CSV of workers may have. Each comes with words that its answer must contain."""

from __future__ import annotations

import collections
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mlma.cluster.planning.csv_columns import BASE_COLUMNS, COLUMNS
from mlma.core.config.flags import Flag

HEADER = ",".join(BASE_COLUMNS)
LEARNER = "learner,localhost,,,,,"
ACTOR = "actor,localhost,,,,,"


class BadArguments(NamedTuple):
    """A command line that must be answered with one line that contains all of `mentions`."""

    argv: tuple[str, ...]
    mentions: tuple[str, ...]


def bad_texts(flag: Flag) -> Iterator[str]:
    """Values that this flag must refuse, whatever the rest of the command line."""
    yield from ("a\0b", "\x1b[31mred", "\udcff", "1\n2", "x" * (flag.longest + 1))
    if flag.choices or flag.type is bool:
        yield from ("", "nope", "٣")
    elif flag.type is str:
        if not flag.may_be_empty:
            yield ""
    else:
        yield from ("", "text", "nan", "inf", "-inf", "1e400", "1" + 400 * "0", "²", "٣", "0x10", "1,5")
        assert flag.minimum is not None, flag.name
        assert flag.maximum is not None, flag.name
        yield f"{flag.minimum - 1:.17g}"
        yield f"{flag.maximum * 2 + 1:.17g}"
        yield from (value for value in ("-1e9", "1e9", "1e300") if not flag.minimum <= float(value) <= flag.maximum)
        if flag.type is int:
            yield "1.5"


def bad_flags(flags: dict[str, Flag]) -> list[BadArguments]:
    """Every flag with every value that it must refuse."""
    return [
        BadArguments((f"--{name}={text}",), (f"--{name}",)) for name, flag in flags.items() for text in bad_texts(flag)
    ]


def bad_files(folder: Path) -> dict[str, Path]:
    """Kind -> something that is no configuration, no CSV and no secret."""
    contents = {
        "binary": bytes(range(256)) * 40,
        "not-utf-8": b"job,ip\nlearner,\xff\xfe\n",
        "deep": b"[" * 200_000 + b"]" * 200_000,
        "deep-value": b'{"level_name": ' + b"[" * 900 + b"]" * 900 + b"}",
        "huge-number": b'{"seed": 1' + b"0" * 400 + b"}",
        "longest-number": b'{"seed": 1' + b"0" * 10_000 + b"}",
        "surrogate": b'{"logdir": "\\ud800"}',
        "escape": b'{"\\u001b[31m": 1}',
        "null": b'{"logdir": null}',
        "empty": b"",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    with (folder / "huge").open("wb") as file:
        file.truncate(2**40)  # takes no space
    names = (*contents, "pipe", "folder", "huge", "missing")
    return {name: folder / name for name in names} | {"device": Path("/dev/zero")}


def bad_config_files(folder: Path) -> list[BadArguments]:
    """`--config` with each of `bad_files`."""
    return [BadArguments((f"--config={path}",), (f"--config={path}",)) for path in bad_files(folder).values()]


def too_large(logdir: Path) -> list[BadArguments]:
    """Values that are within their bounds, but together need more memory than machines have."""
    base = ("--level_name=catch", f"--logdir={logdir}")
    image = ("--level_name=PongNoFrameskip-v4", f"--logdir={logdir}")
    return [
        BadArguments((*base, "--num_actors=100000"), ("--num_actors=100000: ", " GB")),
        BadArguments((*base, "--num_actors=50000", "--envs_per_actor=1024"), ("--num_actors=50000: ", " GB")),
        BadArguments((*base, "--batch_size=65536", "--unroll_length=10000"), ("--batch_size=65536: ", " GB")),
        BadArguments((*base, "--batch_size=65536", "--unroll_length=1000"), ("--batch_size=65536: ", " GB")),
        BadArguments((*image, "--batch_size=4096", "--unroll_length=500"), ("--batch_size=4096: ", " GB")),
        BadArguments((*image, "--unroll_length=10000", "--width=999"), ("--unroll_length=10000: ", " GB")),
        BadArguments((*base, "--queue_capacity=1000000", "--unroll_length=999"), ("--queue_capacity=1000000: ", " GB")),
        BadArguments((*base, "--sample_reuse=1000", "--batch_size=50000"), ("--batch_size=50000: ", " GB")),
        BadArguments((*base, "--algorithm=apex", "--replay_capacity=1e10"), ("--replay_capacity=10000000000: ", " GB")),
        BadArguments((*base, "--learner_threads=1024"), ("--learner_threads=1024: ", " cores")),
        BadArguments((*base, "--actor_threads=1024"), ("--actor_threads=1024: ", " cores")),
        BadArguments((*image, "--num_learners=4096"), ("--num_learners=4096: ", " GB")),
    ]  # fmt: skip


def bad_csvs() -> Iterator[tuple[bytes, tuple[str, ...]]]:
    """Contents of CSVs of workers with one mistake each, and what the answer must contain."""
    rows = f"{HEADER}\n{LEARNER}\n"
    for value in ("\0", "\x1b[2J", "\x07", "\x85", "\u2028"):
        for column in COLUMNS:
            fields = {"job": "actor", "ip": "localhost", column: f"a{value}b"}
            yield f"{','.join(fields)}\n{','.join(fields.values())}\n".encode(), ("row 2", f"column {column}: ")
    for column in ("tf_port", "ssh_port", "envs_per_actor", "num_actors"):
        for value in (
            "-1",
            "0",
            "70000000",
            "1" + "0" * 400,
            "1" + "0" * 4000,
            "²",
            "٣",
            "1e3",
            "nan",
            "0x1",
            "1.0",
            "+1",
        ):
            yield (
                f"job,ip,{column}\nlearner,localhost,\nactor,localhost,{value}\n".encode(),
                ("row 3", f"column {column}: "),
            )
    yield "job,ip,cuda_visible_devices\nlearner,localhost,٣\n".encode(), ("row 2", "cuda_visible_devices")
    for value in ("'x", '"""env A="', "a\\"):
        yield f"job,ip,python\nlearner,localhost,{value}\n".encode(), ("row 2",)
    for count in (1, 6, 8, 5000):
        yield f"{rows}{'a,' * (count - 1)}a\n".encode(), ("row 3", f"{count} fields in 7 columns")
    yield f"job,{HEADER}\n{LEARNER},\n".encode(), ("row 1", "'job': appears 2 times")
    yield f"{HEADER},job\n{LEARNER},\n".encode(), ("row 1", "'job': appears 2 times")
    yield f"{HEADER},\x1b[31m\n{LEARNER},\n".encode(), ("row 1", "no such column")
    yield f"{HEADER},{'x' * 100_000}\n{LEARNER},\n".encode(), ("row 1", "no such column")
    yield b"x," * 100_000, ("row 1", "columns: must be at most")
    yield f"{rows}actor,{'x' * 1_000_000},,,,,\n".encode(), ("row 3",)
    yield f"{rows}actor,{'x' * 100_000},,,,,\n".encode(), ("row 3", "column ip")
    yield f"{rows}{ACTOR}\n\ufeff{ACTOR}\n".encode(), ("row 4", "column job")
    yield f"job,\ufeffip\n{LEARNER}\n".encode(), ("row 1",)
    yield f"{rows}{ACTOR}\n".encode("utf-16"), ("UTF-8",)
    yield rows.encode() + b"actor,\xff,,,,,\n", ("UTF-8",)
    yield bytes(range(256)), ("UTF-8",)
    yield b"\0" * 1000, ("row 1",)
    yield b"", ("header is missing",)
    yield b"\n\r\n\r\r\n", ("header is missing",)
    yield f"{HEADER}\r\n{LEARNER}\nactor\r\n".encode(), ("row 3", "1 fields in 7 columns")
    yield f'{rows}actor,"{"line" * 3}\nlocalhost,,,,,\n'.encode(), ("row 3",)
    yield f"{rows}{'actor,' + chr(34) * 20_001},,,,,\n".encode(), ("row 3",)
    yield f"{rows}{ACTOR}".encode() + b"\n" * 5_000_000, ("must have at most",)
    yield b"job,ip,num_actors\nlearner,localhost,\n" + b"actor,localhost,10000\n" * 20, ("must be at most",)
    yield rows.encode(), ("0 actors for 1 learners",)
    yield f"{HEADER}\n{ACTOR}\n".encode(), ("no row is a learner",)


def draw(seed: int, count: int, cases: list[BadArguments]) -> list[BadArguments]:
    """`count` of the cases in random order; as many different flags as possible."""
    shuffled = random.Random(seed).sample(cases, len(cases))
    seen: collections.Counter[str] = collections.Counter()
    ranked = []
    for case in shuffled:
        name = case.argv[-1].partition("=")[0]
        ranked.append((seen[name], case))
        seen[name] += 1
    return [case for _, case in sorted(ranked, key=lambda pair: pair[0])][:count]
