"""The command line of studies: `mlma study`, or `python -m mlma.studies` in a checkout.

up starts the members, or goes on; status, report and best read what there is. See docs/guides/studies.md.
"""

from __future__ import annotations

import fcntl
import importlib
import os
from typing import Any, BinaryIO

from mlma.core.config import did_you_mean, flag_table, format_flags, run_parser
from mlma.core.config.flags import flag_table as flags_of
from mlma.core.config.flags import parse_values, print_mistake, split_arguments
from mlma.studies.controller import Controller
from mlma.studies.definition import Definition, frontend_table, read_definition, save_definition
from mlma.studies.journal import Journal
from mlma.studies.options import StudyOptions
from mlma.studies.overview import best, status
from mlma.studies.trials import check_is_installed
from mlma.utils.atomic_file import check_writable
from mlma.utils.child_process import EXIT_USAGE
from mlma.utils.code_layout import IS_INSTALLED, program
from mlma.utils.own_files import check_own_folder, open_own
from mlma.utils.user_text import shown

COMMANDS = {
    "up": "start the members, or go on with those that have not finished; Ctrl-C ends all with checkpoints",
    "status": "a table of the members: state, frames, score, age of the last checkpoint, values",
    "report": "write curves, statistics and the history of a population to STUDY/report.html",
    "best": "the checkpoint with the highest score, and how to evaluate it",
}


def main(argv: list[str]) -> int:
    """The exit code: 0 for success, 1 if members failed or there is nothing yet, 2 for a mistake."""
    command, definition = run_parser(argv, _parse, _help_text)
    try:
        if command == "up":
            return _up(definition)
        journal = Journal(definition.folder)
        if not journal.members:
            raise ValueError(f"{shown(str(definition.folder))}: no study has started there; `up` starts it")
        if command == "report":  # with numpy and matplotlib
            return int(importlib.import_module("mlma.studies.report_page.page").write_report(definition, journal))
        if command == "status":
            print(status(definition, journal))
            return 0
        return _best(definition, journal)
    except ValueError as mistake:
        print_mistake(mistake)
        return EXIT_USAGE


def _parse(argv: list[str]) -> tuple[str, Definition]:
    """The command and the study; ValueError in one line."""
    command, *rest = argv or [""]
    if command not in COMMANDS:
        raise ValueError(
            f"{shown(command) or 'study'}: no such command; allowed: {', '.join(COMMANDS)}"
            f"{did_you_mean(command, COMMANDS)}"
        )
    operands = []
    while rest and not rest[0].startswith("-"):
        operands.append(rest.pop(0))
    if len(operands) > 1:
        raise ValueError(f"{shown(operands[1])}: {command} takes the file or the folder of one study")
    table = flags_of(StudyOptions) | frontend_table()
    given = parse_values(split_arguments(rest, table | flag_table()), table | flag_table())
    options = {name: value for name, value in given.items() if name in table}
    flags = {name: value for name, value in given.items() if name not in table}
    return command, read_definition(operands[0] if operands else "", options, flags)


def _up(definition: Definition) -> int:
    check_is_installed(definition)
    if definition.options.workers_csv_path:
        members = len(definition.members()) or definition.options.trials
        importlib.import_module("mlma.studies.placement.host_places").deal_rows(definition, members, lambda _: None)
    folder = definition.folder
    name = shown(str(folder))
    if (folder / "config.json").exists():
        raise ValueError(f"{name}: is the folder of a run; allowed: another one")
    check_own_folder(folder, name)
    check_writable(folder, "folder")
    with _lock(definition):
        wanted, journal = definition.members(), Journal(folder)
        if not definition.optuna:  # which chooses members as they are needed
            _check_members(definition, journal, wanted)
        save_definition(definition)
        for number in range(len(journal.members), len(wanted)):
            journal.add("member", number, values=wanted[number])
        print(f"{name}: {len(wanted) or definition.options.trials} members")
        code = Controller(definition, journal).run()
        print(f"what became of them: {program('-m mlma.studies')} status {folder}")
        return code


def _check_members(definition: Definition, journal: Journal, wanted: list[dict[str, Any]]) -> None:
    """ValueError unless the study goes on with the same members, and maybe more."""
    own = [name for name in (wanted[0] if wanted else {}) if not (definition.pbt and name in definition.vary)]
    for member in journal.members:
        new = wanted[member.number] if member.number < len(wanted) else None
        if new is None or any(new.get(name) != member.values.get(name) for name in own):
            raise ValueError(
                f"{shown(str(definition.folder))}: member {member.name} of the study there is another one, or would be "
                "missing; allowed: the same members and more seeds, or another folder"
            )


def _lock(definition: Definition) -> BinaryIO:
    """The lock of the study, held while the file is open."""
    file = open_own(definition.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ValueError(f"{shown(str(definition.folder))}: the study there is up already") from None
    return file


def _best(definition: Definition, journal: Journal) -> int:
    checkpoint = best(definition, journal)
    if checkpoint is None:
        print("no member has a checkpoint with a score yet")
        return 1
    run = checkpoint.path.parents[1]
    print(checkpoint.path)
    print(f"{definition.metric} {checkpoint.score:.5g} at {checkpoint.frames:,.0f} frames; to evaluate it:")
    command = f"mlma evaluate {run}"
    if not IS_INSTALLED:
        command = f"python experiment.py --mode=test --config={run}/config.json --logdir={run}"
    print(f"{command} --test_checkpoint={checkpoint.path}")
    return 0


def _help_text(word: str) -> str:
    name = program("-m mlma.studies")
    usage = (
        f"usage: {name} COMMAND [FILE | FOLDER] [--flag=value ...]",
        "",
        "FILE is the TOML or YAML file of a study, FOLDER where it has been started. `up` without either makes a study",
        "of the flags: up --seeds=4 --level_name=CartPole-v1. Every flag of a run is accepted, for all members; with",
        "--workers_csv_path also those of the frontend, such as --ssh_key_file and --sync.",
        "",
        *(f"  {command:<8} {description}" for command, description in COMMANDS.items()),
    )
    return format_flags(flags_of(StudyOptions, "Study"), usage)
