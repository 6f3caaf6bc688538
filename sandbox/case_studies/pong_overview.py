"""Draws pong_overview.png, the picture at the top of the README, from the CSV files in this folder.

    python sandbox/case_studies/pong_overview.py

Left: return against frames. Right: the same runs against wall-clock time. The legend gives the mean frames/s of each
run, computed from its first and last report. How the runs were made: pong_recipe.md and value_learners.md.
"""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER = Path(__file__).resolve().parent
GOAL = 18
RUNS = (  # label, file, value of its column `run`, color
    ("IMPALA, seed 1", "pong_seed1.csv", "", "#1f77b4"),
    ("IMPALA, seed 2", "pong_seed2.csv", "", "#4a9bd6"),
    ("IMPALA, seed 3, stopped early", "pong_seed3.csv", "", "#0b3c6f"),
    ("IMPALA, seed 4", "pong_seed4.csv", "", "#8cc4ee"),
    ("Ape-X, seed 1, stopped early", "value_learners.csv", "apex-pong", "#d95f02"),
)


def read(file: str, run: str) -> list[tuple[float, float, float]]:
    """(frames, seconds, mean return) of each report; the return is NaN until the first episode has ended."""
    with (FOLDER / file).open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row.get("run", "") == run]
    return [(float(row["frames"]), float(row["seconds"]), float(row["return/mean"] or "nan")) for row in rows]


def main() -> None:
    figure, (by_frames, by_time) = plt.subplots(1, 2, figsize=(10.5, 3.9), sharey=True, constrained_layout=True)
    for label, file, run, color in RUNS:
        reports = read(file, run)
        frames, seconds, returns = zip(*reports, strict=True)
        speed = (frames[-1] - frames[0]) / (seconds[-1] - seconds[0])
        by_frames.plot([x / 1e6 for x in frames], returns, color=color, label=f"{label}: {speed:,.0f} frames/s")
        by_time.plot([x / 60 for x in seconds], returns, color=color)
    by_frames.set_xlabel("million frames")
    by_frames.set_ylabel("mean return of the last 100 episodes")
    by_time.set_xlabel("minutes")
    for axis in (by_frames, by_time):
        axis.axhline(GOAL, color="gray", linestyle=":", linewidth=1)
        axis.grid(alpha=0.3)
    by_frames.text(12, GOAL - 1.9, f"goal {GOAL}", color="gray", ha="right", fontsize=9)
    by_frames.legend(loc="lower right", fontsize=8.5)
    figure.suptitle("PongNoFrameskip-v4 on two CPU cores, no GPU (other work on the same cores)")
    figure.savefig(FOLDER / "pong_overview.png", dpi=95)


if __name__ == "__main__":
    main()
