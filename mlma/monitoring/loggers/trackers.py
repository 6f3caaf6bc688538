"""Services that track experiments: Weights & Biases, MLflow, trackio. Their packages are optional.

One run there for each logdir: a file in it has the run's id, so that a resumed run continues.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from mlma.monitoring.episode_statistics import Row
from mlma.monitoring.metric_catalog import finite_with_aliases
from mlma.utils.atomic_file import atomic_write

TRACKIO_PROJECT_ENV, TRACKIO_PROJECT = "TRACKIO_PROJECT", "mlma"  # trackio has no variable of its own for that


class WandbWriter:
    """Weights & Biases. Its own environment variables (WANDB_MODE, WANDB_PROJECT, ...) configure it."""

    name = "wandb"

    def __init__(self, wandb: Any, folder: Path, config: dict[str, Any]) -> None:
        run = _kept_id(folder / "wandb_run", secrets.token_hex(8))
        self._run = wandb.init(dir=str(folder), name=folder.name, id=run, resume="allow", config=config)
        self._run.define_metric("*", step_metric="frames")

    def on_report(self, row: Row) -> None:
        """Logs the finite values."""
        self._run.log(finite_with_aliases(row))

    def close(self, finished: bool) -> None:
        """Finishes the upload."""
        self._run.finish()


class MlflowWriter:
    """MLflow. Its own environment variables (MLFLOW_TRACKING_URI, ...) configure it."""

    name = "mlflow"

    def __init__(self, mlflow: Any, folder: Path, config: dict[str, Any]) -> None:
        self._mlflow = mlflow
        mark = folder / "mlflow_run"
        known = mark.read_text().strip() if mark.exists() else None
        self._run = mlflow.start_run(run_id=known, run_name=None if known else folder.name)
        _write_mark(mark, self._run.info.run_id)
        if not known:
            mlflow.log_params(config)

    def on_report(self, row: Row) -> None:
        """Logs the finite values."""
        values = {name: float(value) for name, value in finite_with_aliases(row).items()}
        self._mlflow.log_metrics(values, step=int(row["frames"]))

    def close(self, finished: bool) -> None:
        """Ends the run."""
        self._mlflow.end_run()


class TrackioWriter:
    """trackio. Its own environment variables (TRACKIO_DIR, TRACKIO_SPACE_ID, ...) configure it."""

    name = "trackio"

    def __init__(self, trackio: Any, folder: Path, config: dict[str, Any]) -> None:
        # It continues a run by its name, so the name must not be that of a run in another folder.
        name = _kept_id(folder / "trackio_run", f"{folder.name}-{secrets.token_hex(4)}")
        self._run = trackio.init(
            project=os.environ.get(TRACKIO_PROJECT_ENV) or TRACKIO_PROJECT,
            name=name,
            resume="allow",
            config=config,
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def on_report(self, row: Row) -> None:
        """Logs the finite values."""
        self._run.log({name: float(value) for name, value in finite_with_aliases(row).items()}, step=int(row["frames"]))

    def close(self, finished: bool) -> None:
        """Waits until all reports are written."""
        self._run.finish()


def _kept_id(mark: Path, new: str) -> str:
    """The id in the file `mark`, which gets `new` if there is none."""
    if not mark.exists():
        _write_mark(mark, new)
    return mark.read_text().strip()


def _write_mark(mark: Path, run: str) -> None:
    with atomic_write(mark) as file:
        file.write(f"{run}\n".encode())
