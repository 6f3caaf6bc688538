"""The definition of a study: its file, or flags on the command line -> folder, members, and how they are compared.

    folder = "logdir/catch_rates"   # default: logdir/ and the name of the file
    seeds = 4
    [flags]                         # of every member
    level_name = "catch"
    [vary]                          # what differs between members
    learning_rate = [1e-4, 1e-3]
    [pbt]                           # the members are a population
    every_frames = 50_000
    [cluster]                       # flags of the frontend, with workers_csv_path
    channel = "tls"

A definition is also STUDY/study.json, in the same form. Not here: what becomes of the members
(mlma/studies/controller.py).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlma.cluster.options import Options
from mlma.core.config import did_you_mean, flag_table, parse, with_logdir
from mlma.core.config.config_file import parse_entries, read_entries
from mlma.core.config.flags import Flag
from mlma.core.config.flags import flag_table as flags_of
from mlma.core.config.yaml_file import Entry
from mlma.envs.reference_scores import level_range
from mlma.studies.options import CAPPED_SCORE, MAX_MEMBERS, OptunaOptions, PbtOptions, StudyOptions
from mlma.studies.search import Range, Variation, grid, parse_variation, random_search
from mlma.utils.atomic_file import atomic_write
from mlma.utils.input_file import read_json_file
from mlma.utils.user_text import shown

STUDY_FILE = "study.json"
TABLES = ("flags", "vary", "pbt", "optuna", "cluster")
# What the controller decides for each member, or what starts something else than a run on one machine.
NOT_OF_MEMBERS = (
    "logdir", "mode", "job_name", "task", "learner_host", "actor_hosts", "token_file", "heartbeat_folder",
)  # fmt: skip
NOT_OF_STUDIES = (  # flags of the frontend
    "workers_csv_path", "tmux_sess", "ask_password", "forget", "watch", "every_seconds", "json", "follow", "lines",
)  # fmt: skip
CHANGE_IN_TRAINING = ("learning_rate", "entropy_cost", "epsilon", "gradients_clipping", "discounting")
MAY_GROW = "total_environment_frames"  # of a study that goes on


@dataclasses.dataclass(frozen=True)
class Definition:
    """A study as its file describes it."""

    folder: Path
    flags: dict[str, Any]  # of every member
    vary: dict[str, Variation]
    options: StudyOptions
    pbt: PbtOptions | None
    optuna: OptunaOptions | None = None  # of search = optuna
    cluster: dict[str, Any] = dataclasses.field(default_factory=dict)  # flags of the frontend, for members on hosts

    @property
    def metric(self) -> str:
        """The column of metrics.csv by which members are compared."""
        return (self.pbt or self.optuna or PbtOptions()).metric

    def members(self) -> list[dict[str, Any]]:
        """The values of the flags that differ, for each member: settings, all of them with one seed after the other.

        None with Optuna, which chooses one after the other. ValueError in one line if they are none, too many, or such
        that experiment.py would refuse them.
        """
        options = self.options
        if options.search != "grid" and not options.trials:
            raise ValueError(f"search: {options.search} needs the number of trials, such as: trials = 8")
        if options.search == "grid" and options.trials:
            raise ValueError("trials: only with search = random or optuna; a grid has as many as [vary] gives")
        if options.search == "optuna":
            self._check_trials()
            return []
        if options.search == "random":
            settings = random_search(self.vary, options.trials, options.search_seed)
        else:
            settings = grid(self.vary)
        if len(settings) * options.seeds > MAX_MEMBERS:
            raise ValueError(f"{len(settings)} settings and {options.seeds} seeds: at most {MAX_MEMBERS} are allowed")
        if "seed" in self.vary and options.seeds > 1:
            raise ValueError("seeds: not with seed in [vary], which has the seeds: members would be equal; allowed: 1")
        first = self.flags.get("seed", flag_table()["seed"].default)
        found: list[dict[str, Any]] = []
        for number in range(options.seeds):
            for setting in settings:
                seed = first + (len(found) if self.pbt else number)
                found.append(setting if "seed" in self.vary else setting | {"seed": seed})
        for values in found:
            parse(to_arguments(self.flags | values))
        return found

    def seed_of_trials(self) -> dict[str, Any]:
        """The seed of a member that Optuna has chosen: the same for all, unless it varies."""
        return {} if "seed" in self.vary else {"seed": self.flags.get("seed", flag_table()["seed"].default)}

    def _check_trials(self) -> None:
        """ValueError if experiment.py would refuse the first or the last values of what varies."""
        if self.options.seeds > 1:
            raise ValueError("seeds: a trial of search = optuna is one member; allowed: 1, or seed in [vary]")
        for first in (True, False):
            parse(to_arguments(self.flags | {name: each.end(first) for name, each in self.vary.items()}))

    def as_json(self) -> dict[str, Any]:
        """As it stands in a file, without the folder."""
        values: dict[str, Any] = dataclasses.asdict(self.options) | {"flags": self.flags}
        values["vary"] = {name: variation.as_json() for name, variation in self.vary.items()}
        tables = {"pbt": self.pbt, "optuna": self.optuna}
        values |= {"cluster": self.cluster} if self.cluster else {}
        return values | {name: dataclasses.asdict(table) for name, table in tables.items() if table}


def frontend_table() -> dict[str, Flag]:
    """The flags of the frontend that a study may give: all but those that follow from it, or are for people."""
    return {name: flag for name, flag in flags_of(Options).items() if name not in NOT_OF_STUDIES}


def to_arguments(flags: Mapping[str, Any]) -> list[str]:
    """Flags as they are typed."""
    table = flag_table()
    return [f"--{name}={table[name].format(value)}" for name, value in flags.items()]


def read_definition(path: str, options: Mapping[str, Any], flags: Mapping[str, Any]) -> Definition:
    """The study in a file, or in a folder that has one, with what the command line changes; "" is no file.

    ValueError in one line that names the file.
    """
    if not path:
        return _without_file(options, flags)
    name = shown(path)
    folder = Path(path)
    if folder.is_dir():
        if not (folder / STUDY_FILE).is_file():
            raise ValueError(f"{name}: is the folder of no study; allowed: one with a {STUDY_FILE}, or a file")
        path = str(folder / STUDY_FILE)

    def convert(entries: list[Entry]) -> Definition:
        definition, given_folder = _from_entries(entries, options, flags)
        check_metric(definition)
        if Path(path).name == STUDY_FILE:
            return dataclasses.replace(definition, folder=Path(path).parent)
        chosen = flags.get("logdir") or given_folder or f"logdir/{folder.stem}"
        return dataclasses.replace(definition, folder=Path(chosen))

    return read_entries(path, name, convert)


def _without_file(options: Mapping[str, Any], flags: Mapping[str, Any]) -> Definition:
    """A study of one setting, from flags alone."""
    if not flags:
        raise ValueError("needs the file or the folder of a study, or flags of a run and --seeds=N")
    definition, _ = _from_entries([], options, flags)
    check_metric(definition)
    config = with_logdir(parse(to_arguments(flags)))
    folder = config.run.logdir if "logdir" in flags else f"{config.run.logdir}-study"
    return dataclasses.replace(definition, folder=Path(folder))


def _from_entries(entries: list[Entry], options: Mapping[str, Any], flags: Mapping[str, Any]) -> tuple[Definition, str]:
    """The definition without its folder, and the folder that the file names."""
    of_study, folder, tables = [], "", dict[str, dict[str, Any]]()
    table = flags_of(StudyOptions)
    for entry in entries:
        where = f"line {entry.line}: " if entry.line else ""
        if entry.name in TABLES:
            if not isinstance(entry.value, dict):
                raise ValueError(f"{where}{entry.name}: must be a table, as in [{entry.name}]")
            tables[entry.name] = entry.value
        elif entry.name == "folder":
            if not isinstance(entry.value, str) or not entry.value.strip():
                raise ValueError(f"{where}folder: must be the name of a folder")
            folder = entry.value
        elif entry.name in table:
            of_study.append(entry)
        elif entry.name.replace("-", "_") in flag_table():
            raise ValueError(f"{where}{shown(entry.name)}: is a flag of the members, which belongs under [flags]")
        else:
            hint = did_you_mean(entry.name, [*table, *TABLES, "folder"])
            raise ValueError(f"{where}{shown(entry.name)}: no such entry of a study{hint}")
    of_frontend = frontend_table()
    given = {name: value for name, value in options.items() if name not in of_frontend}
    study = StudyOptions(**(parse_entries(of_study, dict(table)) | given))
    cluster = [Entry(name, value, 0) for name, value in tables.get("cluster", {}).items()]
    try:
        frontend = parse_entries(cluster, dict(of_frontend))
    except ValueError as error:
        raise ValueError(f"cluster: {error}") from None
    frontend |= {name: value for name, value in options.items() if name in of_frontend}
    of_members = [Entry(name, value, 0) for name, value in tables.get("flags", {}).items()]
    try:
        in_file = parse_entries(of_members, flag_table())
    except ValueError as error:
        raise ValueError(f"flags: {error}") from None
    typed = {name: value for name, value in flags.items() if name != "logdir"}
    for name in [*in_file, *typed]:
        _check_is_free(name)
    in_file |= typed
    vary = _parse_vary(tables.get("vary", {}))
    if both := sorted(vary.keys() & in_file.keys()):
        raise ValueError(f"{both[0]}: is set in [vary] and in the flags of all members; allowed: one of them")
    optuna = _parse_optuna(tables, vary, study)
    pbt = _parse_population(tables["pbt"], vary) if "pbt" in tables else None
    definition = Definition(Path(), in_file, vary, study, pbt, optuna, frontend)
    if len(definition.members()) < 2 and pbt:
        raise ValueError("pbt: a population needs two members at least: more seeds, or more values in [vary]")
    return definition, folder


def _check_is_free(name: str) -> None:
    if name in NOT_OF_MEMBERS:
        raise ValueError(f"{name}: follows from the study; its folder is named by: folder")


def _parse_vary(table: Mapping[str, Any]) -> dict[str, Variation]:
    found = {}
    for given, value in table.items():
        name = given.replace("-", "_")
        if name not in flag_table():
            raise ValueError(f"vary: {shown(given)}: no such flag{did_you_mean(given, flag_table())}")
        _check_is_free(name)
        found[name] = parse_variation(flag_table()[name], value)
    return found


def _parse_population(table: Mapping[str, Any], vary: Mapping[str, Variation]) -> PbtOptions:
    """ValueError in one line for what cannot change while a member trains, or has no value to start from."""
    try:
        pbt = PbtOptions(**parse_entries([Entry(*each, 0) for each in table.items()], dict(flags_of(PbtOptions))))
    except ValueError as error:
        raise ValueError(f"pbt: {error}") from None
    if not pbt.every_frames:
        raise ValueError("pbt: every_frames: must be given, the frames between two comparisons of a member")
    if not vary:
        raise ValueError("pbt: needs the hyperparameters that it changes, and their first values, in [vary]")
    for name, variation in vary.items():
        if name not in CHANGE_IN_TRAINING:
            raise ValueError(f"vary: {name}: cannot change in training; with [pbt]: {', '.join(CHANGE_IN_TRAINING)}")
        lowest = variation.low if isinstance(variation, Range) else min(variation.choices)
        if lowest <= 0:
            raise ValueError(f"vary: {name}: 0 and below take the preset's value; with [pbt] values must be above 0")
    return pbt


def _parse_optuna(
    tables: Mapping[str, Mapping[str, Any]], vary: Mapping[str, Variation], study: StudyOptions
) -> OptunaOptions | None:
    """ValueError in one line for what does not go together."""
    if study.search != "optuna":
        if "optuna" in tables:
            raise ValueError("optuna: only with search = optuna")
        return None
    if "pbt" in tables:
        raise ValueError("pbt: a population changes its members itself; allowed: search = grid or random")
    entries = [Entry(*each, 0) for each in tables.get("optuna", {}).items()]
    try:
        options = OptunaOptions(**parse_entries(entries, dict(flags_of(OptunaOptions))))
    except ValueError as error:
        raise ValueError(f"optuna: {error}") from None
    if options.pruner != "none" and not options.every_frames:
        raise ValueError("optuna: every_frames: must be given, the frames between two reports; or: pruner = none")
    if not vary:
        raise ValueError("search: optuna needs lists or ranges of values in [vary]")
    lists = [name for name, variation in vary.items() if not isinstance(variation, Range)]
    if options.sampler == "cmaes" and lists:
        raise ValueError(f"vary: {lists[0]}: sampler = cmaes needs a range; other samplers take lists, too")
    return options


def check_metric(definition: Definition) -> None:
    """ValueError for a score of one level that has none published."""
    level = str(definition.flags.get("level_name", flag_table()["level_name"].default))
    is_set = "," in level or level in ("atari57", "dmlab30")
    if definition.metric == CAPPED_SCORE and not is_set and level_range(level) is None:
        table = "pbt" if definition.pbt else "optuna"
        raise ValueError(f"{table}: metric: {CAPPED_SCORE}: no scores of {shown(level)} are published; use return/mean")


def save_definition(definition: Definition) -> None:
    """Writes STUDY/study.json. ValueError if it is there and the study has other flags, which its members had."""
    path, now = definition.folder / STUDY_FILE, definition.as_json()
    if path.exists():
        before = read_json_file(path)
        changed = [
            f"flags.{name}"
            for name in {**before["flags"], **now["flags"]}
            if (name != MAY_GROW or definition.optuna) and before["flags"].get(name) != now["flags"].get(name)
        ]
        changed += ["pbt"] * (("pbt" in before) != ("pbt" in now))
        if "optuna" in {**before, **now}:  # scores of other values, or after other frames, would mislead it
            changed += [name for name in ("optuna", "vary", "search_seed") if before.get(name) != now.get(name)]
        if changed:
            raise ValueError(
                f"{shown(str(definition.folder))}: the study there has other settings: {', '.join(changed)}; allowed: "
                "another folder"
            )
    with atomic_write(path, mode=0o600 if "env" in definition.cluster else 0o666) as file:  # it may hold secrets
        file.write((json.dumps(now, indent=1) + "\n").encode())
