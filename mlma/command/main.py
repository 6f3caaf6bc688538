"""The command `mlma`: one name for what the scripts and modules of a checkout do.

Each subcommand replaces this process by the script or module that does the work, with the arguments as they are, so a
run looks the same however it was started. Imports nothing heavy.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import os
import sys
from pathlib import Path
from typing import NamedTuple, NoReturn

from mlma.utils.child_process import EXIT_USAGE
from mlma.utils.code_layout import IS_INSTALLED, PROGRAM_ENV, ROOT
from mlma.utils.console_streams import print_text

BENCHMARKS = ("roofline", "scaling", "allreduce", "inference", "replay", "channels", "ingest")
INSTALLS = {  # what they add to this Python
    "install-learner": "add what several learners need: compiles Horovod, 2 to 5 minutes",
    "install-vizdoom": "add VizDoom and its maps; nothing is compiled",
    "install-dmlab": "add what DeepMind Lab's package imports; the Lab itself is in no package index",
    "install-mujoco": "add MuJoCo, for gymnasium's HalfCheetah-v5, Hopper-v5, Humanoid-v5, ...",
    "install-box2d": "add Box2D, for LunarLander-v3, BipedalWalker-v3, CarRacing-v3",
    "install-export": "add what exports to ONNX and LiteRT need; SavedModels need nothing",
    "install-optuna": "add Optuna, for studies with search = optuna",
}


class Subcommand(NamedTuple):
    """A line of the overview, and what runs: a script of the checkout or a module, with arguments in front."""

    usage: str
    does: str
    script: str = ""
    module: str = ""
    arguments: tuple[str, ...] = ()


SUBCOMMANDS = {
    "train": Subcommand("[--flag=value ...]", "train, or resume the run in --logdir", "experiment.py"),
    "evaluate": Subcommand("LOGDIR [--flag=value ...]", "evaluate the last checkpoint of a run", "experiment.py"),
    "plot": Subcommand("RUN [RUN ...]", "draw training curves", module="mlma.evaluation.plot"),
    "report": Subcommand(
        "RUN [RUN ...]", "write an HTML page about each run", module="mlma.evaluation.plot", arguments=("--report",)
    ),
    "bench": Subcommand("[NAME] [--flag=value ...]", f"measure this machine: {', '.join(BENCHMARKS)}"),
    "cluster": Subcommand(
        "[COMMAND] [--flag=value ...]",
        "start, watch and end a run on many hosts: up, check, status, logs, ...",
        "run_experiment_mm_raw.py",
    ),
    "study": Subcommand(
        "COMMAND [FILE] [--flag=value ...]",
        "seeds, sweeps and populations from one file: up, status, report, best",
        module="mlma.studies",
    ),
    "presets": Subcommand("", "list the presets and what they set", "experiment.py", arguments=("--preset=help",)),
    "levels": Subcommand("", "list the levels", "experiment.py", arguments=("--level_name=help",)),
    **{name: Subcommand("", does, module="mlma.command.install") for name, does in INSTALLS.items()},
    "completion": Subcommand(
        "bash | zsh", "print what completes these commands on Tab", module="mlma.command.completion"
    ),
}


def main() -> int:
    """Exit code for help and mistakes; a subcommand replaces this process."""
    name, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if name in ("-h", "--help", "help"):
        return print_text(overview())
    if name == "--version":
        return print_text(version())
    if name not in SUBCOMMANDS:
        near = difflib.get_close_matches(name, SUBCOMMANDS, n=2)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        return _mistake(f"{name!r}: no such command; allowed: {', '.join(SUBCOMMANDS)}{hint}")
    try:
        command = command_of(name, rest)
    except ValueError as mistake:
        return _mistake(str(mistake))
    _become(name, command)


def command_of(name: str, rest: list[str]) -> list[str]:
    """The arguments of Python for a subcommand; ValueError in one line."""
    subcommand = SUBCOMMANDS[name]
    if name == "bench":
        which = rest.pop(0) if rest and not rest[0].startswith("-") else BENCHMARKS[0]
        if which not in BENCHMARKS:
            raise ValueError(f"mlma bench {which!r}: no such benchmark; allowed: {', '.join(BENCHMARKS)}")
        return ["-m", f"{'mlma.' * IS_INSTALLED}benchmarks.{which}", *rest]
    if name == "evaluate":
        rest = _evaluation_flags(rest)
    if name in INSTALLS:
        rest = [name, *rest]
    start = ["-m", subcommand.module] if subcommand.module else [str(ROOT / subcommand.script)]
    return [*start, *subcommand.arguments, *rest]


def _evaluation_flags(rest: list[str]) -> list[str]:
    """Those of the run in LOGDIR, and that it is only to be evaluated."""
    if not rest or rest[0].startswith("-"):
        return ["--mode=test", *rest]
    logdir = Path(rest[0])
    if not (logdir / "config.json").is_file():
        raise ValueError(f"mlma evaluate {rest[0]!r}: must be the logdir of a run; it has no config.json")
    return ["--mode=test", f"--config={logdir}/config.json", f"--logdir={logdir}", *rest[1:]]


def _become(name: str, command: list[str]) -> NoReturn:
    environment = dict(os.environ) | {PROGRAM_ENV: f"mlma {name}"}  # for its help
    if not SUBCOMMANDS[name].script and not IS_INSTALLED:
        # Started by `python -m mlma`: modules are found here, from any working folder.
        known = os.environ.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{known}" if known else str(ROOT)
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *command], environment)


def overview() -> str:
    """The text of `mlma --help`."""
    width = max(len(f"{name} {subcommand.usage}") for name, subcommand in SUBCOMMANDS.items() if len(name) < 12)
    lines = [f"  {f'{name} {each.usage}':<{width}}  {each.does}" for name, each in SUBCOMMANDS.items()]
    return "\n".join(
        [
            "usage: mlma COMMAND ...",
            "",
            *lines,
            "",
            "`mlma COMMAND --help` describes a command; `mlma train --help=all` lists every flag of a run.",
        ]
    )


def version() -> str:
    """The version, where the code lies, and the Python that runs it."""
    try:
        number = importlib.metadata.version("mlma")
    except importlib.metadata.PackageNotFoundError:
        number = "of a checkout"
    return f"mlma {number}, {ROOT}, Python {'.'.join(map(str, sys.version_info[:3]))}"


def _mistake(line: str) -> int:
    print(line, file=sys.stderr)
    return EXIT_USAGE
