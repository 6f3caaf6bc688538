"""Bad values of every flag: each is answered by one line that names the flag, in no time, by real processes too.

Every flag of experiment.py, of the frontend and of the health check is tried with every bad value in this process; a
sample goes through the real programs. Bad CSVs are in tests/cluster/test_bad_csvs.py.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlma.cluster.options import DERIVED_FROM_CSV, Options, parse_invocation
from mlma.core.config import flag_table, parse
from mlma.core.config.flags import flag_table as table_of
from mlma.core.machine_fit import check_fits_machine
from mlma.core.presets.resolve import resolve
from mlma.envs.registry import env_spec
from mlma.monitoring.health_check import HealthFlags, parse_flags
from mlma.transport.auth import read_token
from tests.support.bad_values import BadArguments, bad_config_files, bad_files, bad_flags, draw, too_large
from tests.support.runs import ROOT

ANSWER_SECONDS = 20.0  # on a busy machine; alone it takes less than one
TRAINING, FRONTEND, HEALTH = flag_table(), table_of(Options), table_of(HealthFlags)
SEED = 20261125


def check_answer(answer: str, mentions: tuple[str, ...]) -> None:
    assert [part for part in mentions if part not in answer] == []
    assert len(answer) < 1000
    assert answer.isprintable(), "one line, without codes that a terminal would obey"


@pytest.mark.parametrize("name", TRAINING)
def test_every_training_flag_refuses_bad_values_in_one_line(name: str) -> None:
    for bad in bad_flags({name: TRAINING[name]}):
        for parser in (parse, parse_invocation):
            with pytest.raises(ValueError, match=f"--{name}") as caught:
                parser(list(bad.argv))
            check_answer(str(caught.value), bad.mentions)


@pytest.mark.parametrize("name", FRONTEND)
def test_every_flag_of_the_frontend_refuses_bad_values_in_one_line(name: str) -> None:
    for bad in bad_flags({name: FRONTEND[name]}):
        with pytest.raises(ValueError, match=f"--{name}") as caught:
            parse_invocation(list(bad.argv))
        check_answer(str(caught.value), bad.mentions)


@pytest.mark.parametrize("name", HEALTH)
def test_every_flag_of_the_health_check_refuses_bad_values_in_one_line(name: str, tmp_path: Path) -> None:
    for bad in bad_flags({name: HEALTH[name]}):
        with pytest.raises(ValueError, match=f"--{name}") as caught:
            parse_flags([f"--heartbeat_folder={tmp_path}", *bad.argv])
        check_answer(str(caught.value), bad.mentions)


def test_every_number_has_a_minimum_and_a_maximum_around_its_default() -> None:
    for flag in (TRAINING | FRONTEND | HEALTH).values():
        if flag.type in (int, float):
            assert flag.minimum is not None, flag.name
            assert flag.maximum is not None, flag.name
            assert flag.minimum <= flag.default <= flag.maximum, flag.name
            flag.check_bounds(flag.parse(f"{flag.maximum:.17g}"))


def test_a_bad_configuration_file_is_answered_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    for bad in bad_config_files(tmp_path):
        with pytest.raises(ValueError, match="--config=") as caught:
            parse(list(bad.argv))
        check_answer(str(caught.value), bad.mentions)
    assert time.monotonic() - began < ANSWER_SECONDS


def test_a_bad_token_file_is_answered_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLMA_TOKEN", raising=False)
    for path in bad_files(tmp_path).values():
        if path.is_file() and path.name not in ("binary", "not-utf-8", "empty", "huge"):
            continue  # text, so it could be a secret
        if path.parent == tmp_path and path.exists():
            path.chmod(0o600)
        with pytest.raises(ValueError, match="--token_file=") as caught:
            read_token(str(path))
        check_answer(str(caught.value), (f"--token_file={path}",))


@pytest.mark.parametrize("bad", too_large(Path("/nowhere")), ids=lambda bad: bad.argv[2].removeprefix("--"))
def test_what_no_machine_can_hold_is_refused_with_the_figures(bad: BadArguments) -> None:
    config = parse(list(bad.argv))
    spec = env_spec(config.environment)
    with pytest.raises(ValueError, match="--") as caught:
        check_fits_machine(resolve(config, spec, 2), spec, "learner")
    check_answer(str(caught.value), bad.mentions)


def program(bad: BadArguments) -> list[str]:
    """The frontend for its own flags, else experiment.py."""
    name = bad.argv[-1].partition("=")[0].removeprefix("--")
    return ["run_experiment_mm_raw.py", "check"] if name in FRONTEND else ["experiment.py"]


def possible(bad: BadArguments) -> bool:
    """Whether the kernel can pass these arguments to a program."""
    return not any("\0" in word or len(word) > 100_000 for word in bad.argv)


def run_program(bad: BadArguments) -> tuple[float, int, str, str]:
    """Seconds, exit code, standard output and errors of the real program."""
    began = time.monotonic()
    command = [sys.executable, *program(bad), *bad.argv]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120)
    return time.monotonic() - began, done.returncode, done.stdout.decode(), done.stderr.decode()


def test_a_sample_is_answered_by_the_real_programs(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    flags = TRAINING | {name: flag for name, flag in FRONTEND.items() if name not in DERIVED_FROM_CSV}
    cases = [bad for bad in bad_flags(flags) if possible(bad)]
    files, large = bad_config_files(tmp_path / "files"), too_large(tmp_path / "run")
    sample = [*draw(SEED, 6, cases), *draw(SEED, 3, files), *draw(SEED, 3, large)]
    for bad in sample:
        seconds, code, output, errors = run_program(bad)
        assert (code, output) == (2, ""), errors
        assert errors.count("\n") == 1, errors
        check_answer(errors.rstrip("\n"), bad.mentions)
        assert seconds < ANSWER_SECONDS
