"""mlma.read_run, and what `import mlma` costs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mlma
from tests.support.runs import ROOT


def write(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"level_name": "catch"}))
    (folder / "metrics.csv").write_text("frames,return/mean\n100,\n200,0.5\n")
    (folder / "evaluation").mkdir()
    for time, mean in (("20260102", 0.75), ("20260101", 0.5)):
        record = folder / "evaluation" / f"evaluation-000000007-{time}-000000.json"
        record.write_text(json.dumps({"mean": mean, "date": time}))
        record.with_suffix(".csv").write_text(f"episode,return,frames,level\n0,{mean},9,catch\n")


def test_a_run_is_columns(tmp_path: Path) -> None:
    write(tmp_path)
    run = mlma.read_run(tmp_path)
    np.testing.assert_array_equal(run.metrics["frames"], [100, 200])
    np.testing.assert_array_equal(run.metrics["return/mean"], [np.nan, 0.5])
    assert run.metrics.rows == 2 and "return/mean" in repr(run.metrics)
    assert run.config == {"level_name": "catch"}
    assert [each["mean"] for each in run.evaluations] == [0.5, 0.75]
    assert run.episodes["return"].tolist() == [0.5, 0.75] and run.episodes["frames"].tolist() == [9, 9]
    assert run.episodes["level"].tolist() == ["catch", "catch"] and run.sessions == []
    assert repr(run) == "<mlma.RunData of catch: 2 reports, 2 evaluations, 0 sessions>"


def test_a_run_that_has_not_reported_is_empty(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    run = mlma.read_run(tmp_path)
    assert run.metrics.rows == run.episodes.rows == 0 and run.metrics["frames"].shape == (0,)
    with pytest.raises(ValueError, match=r"has no config\.json; allowed: the logdir of a run"):
        mlma.read_run(tmp_path / "other")


def test_pandas_is_needed_only_for_its_own_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pandas"):
        mlma.read_run(tmp_path).metrics.to_pandas()


def test_importing_it_imports_nothing_heavy() -> None:
    heavy = "{'numpy', 'tensorflow', 'gymnasium', 'rich'} & sys.modules.keys()"
    code = f"import sys, mlma; dir(mlma); assert not {heavy}; mlma.train; assert not {heavy}, {heavy}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_its_names_are_those_of_the_guide() -> None:
    assert {"load_policy", "read_run", "train"} <= set(dir(mlma))
    assert all(getattr(mlma, name) for name in mlma.__all__)
    with pytest.raises(AttributeError, match="'mlma' has no attribute 'trian'"):
        mlma.trian  # noqa: B018
