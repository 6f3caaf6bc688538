"""The bottleneck of a run in one sentence, and what would help, from the shares of time in a row of metrics.csv.

Learners that average gradients keep in step: all but the slowest wait in the allreduce. With several learners, the
phases of the one that waits there least therefore count (columns `slowest/*`), and its time in the allreduce is the
network's. Imports nothing heavy: the frontend's `status` prints the sentence for a run on other hosts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

WAITING_SHARE = 0.1  # smallest share of time at which waiting counts
STALLED_SHARE = 0.3  # of actors' time, spent on transfers to and from a learner that waits for them
BUSY_SHARE = 0.93  # of the cores that learner and actors share
LEARNER_PHASES = ("wait", "stack", "gradient", "allreduce", "apply", "publish")
COLUMNS = (
    *(f"learner/{name}" for name in LEARNER_PHASES),
    *(f"slowest/{name}" for name in ("rank", *LEARNER_PHASES)),
    *("receiver/stack", "actors/wait", "actors/fetch", "actors/count", "host/busy"),
)
LATEST_VALUE_COLUMNS = ("slowest/rank", "actors/count")  # their mean would mean nothing
RECENT_REPORTS = 6  # reports that are averaged


def average_columns(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The means of COLUMNS over the rows that have a number there; a column without any number is left out."""
    means: dict[str, float] = {}
    rows = list(rows)
    for name in COLUMNS:
        values = [row[name] for row in rows if math.isfinite(row.get(name, math.nan))]
        if values:
            means[name] = values[-1] if name in LATEST_VALUE_COLUMNS else sum(values) / len(values)
    return means


def diagnose(row: Mapping[str, float]) -> str:
    """One sentence, "verdict-bound: reason"; empty if the row lacks the columns for a verdict."""
    group = "slowest" if "slowest/wait" in row else "learner"
    share = {name: row.get(f"{group}/{name}", 0.0) for name in LEARNER_PHASES}
    num_actors = row.get("actors/count", 0.0)
    waiting, fetching = row.get("actors/wait", math.nan), row.get("actors/fetch", math.nan)
    if (
        f"{group}/gradient" not in row or not num_actors or math.isnan(waiting)
    ):  # nothing is timed in a deterministic run
        return ""
    learner = f"learner {row['slowest/rank']:.0f}" if group == "slowest" else "the learner"
    if share["wait"] >= WAITING_SHARE:
        return _diagnose_starved(row, learner, share["wait"], num_actors, waiting, fetching)
    gradients = share["gradient"] + share["apply"]
    if share["allreduce"] > max(gradients, share["stack"]):
        return (
            f"allreduce-bound: {_percent(share['allreduce'])} of the time, gradients take {_percent(gradients)}; "
            "a faster network between learners, --compression=fp16 or a larger --batch_size would help"
        )
    if waiting < WAITING_SHARE:
        return f"balanced: {learner} waits {_percent(share['wait'])}, actors {_percent(waiting)}"
    phases = {"gradients": gradients, "stacking samples": share["stack"], "publishing": share["publish"]}
    longest = max(phases, key=lambda name: phases[name])
    others_wait = row.get("learner/allreduce", 0.0) - share["allreduce"]
    enough = max(1, math.ceil(num_actors * (1 - waiting)))
    sentence = f"learner-bound: {longest} take {_percent(phases[longest])} of its time, actors wait {_percent(waiting)}"
    if group == "slowest" and others_wait >= WAITING_SHARE:
        sentence += f"; the other learners wait for {learner}"
    return sentence + (f"; {enough} of {num_actors:.0f} actors would do" if enough < num_actors else "")


def _diagnose_starved(
    row: Mapping[str, float], learner: str, wait: float, num_actors: float, waiting: float, fetching: float
) -> str:
    waits = f"{learner} waits {_percent(wait)}"
    if row.get("receiver/stack", 0.0) > 1 - WAITING_SHARE:
        return f"receiver-bound: {waits} for samples that its receiver thread builds; more learners would help"
    if waiting + fetching >= STALLED_SHARE and "host/busy" not in row:  # on one host there is no link between them
        most = "weights" if fetching > waiting else "trajectories"
        return (
            f"network-bound: {waits} while actors spend {_percent(waiting + fetching)} of their time on transfers, "
            f"most of it for {most}; a faster link would help"
        )
    if row.get("host/busy", 0.0) >= BUSY_SHARE:
        busy = _percent(row["host/busy"])
        return f"cpu-bound: {waits} while this machine's cores are {busy} busy; more of them would help"
    more = max(1, math.ceil(num_actors * (1 - waiting) / max(1 - wait, 0.01) - num_actors))
    plural = "s" if more > 1 else ""
    return f"actor-bound: {waits}; about {more} more actor{plural} would saturate it ({num_actors:.0f} now)"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
