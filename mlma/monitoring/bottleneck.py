"""One sentence on where the time goes and what would help, from the shares in a row of metrics.csv.

Learners that average gradients go in step: all but the slowest wait in the allreduce. So with several of them it is the one
with the smallest share there whose phases count, and its allreduce is the network's (columns `slowest/*`). Imports nothing
heavy: `status` says the sentence of a run on other hosts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

WAITING_SHARE = 0.1  # a share from which on waiting counts
STALLED_SHARE = 0.3  # of actors' time, spent on the way to a learner that waits for them
BUSY_SHARE = 0.93  # of the cores that learner and actors share
LEARNER_PHASES = ("wait", "stack", "gradient", "allreduce", "apply", "publish")
COLUMNS = (
    *(f"learner/{name}" for name in LEARNER_PHASES),
    *(f"slowest/{name}" for name in ("rank", *LEARNER_PHASES)),
    *("receiver/stack", "actors/wait", "actors/fetch", "actors/count", "host/busy"),
)
RECENT_REPORTS = 6  # reports that are averaged


def average_columns(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Of COLUMNS, over rows that have them."""
    found: dict[str, float] = {}
    rows = list(rows)
    for name in COLUMNS:
        values = [row[name] for row in rows if math.isfinite(row.get(name, math.nan))]
        if values:
            found[name] = values[-1] if name in ("slowest/rank", "actors/count") else sum(values) / len(values)
    return found


def diagnose(row: Mapping[str, float]) -> str:
    """ "" before there is anything to say."""
    of = "slowest" if "slowest/wait" in row else "learner"
    share = {name: row.get(f"{of}/{name}", 0.0) for name in LEARNER_PHASES}
    actors = row.get("actors/count", 0.0)
    waiting, fetching = row.get("actors/wait", math.nan), row.get("actors/fetch", math.nan)
    if f"{of}/gradient" not in row or not actors or math.isnan(waiting):  # in turns, all wait for each other
        return ""
    who = f"learner {row['slowest/rank']:.0f}" if of == "slowest" else "the learner"
    if share["wait"] >= WAITING_SHARE:
        return _starved(row, who, share["wait"], actors, waiting, fetching)
    work = share["gradient"] + share["apply"]
    if share["allreduce"] > max(work, share["stack"]):
        return (
            f"allreduce-bound: {_percent(share['allreduce'])} of the time, gradients take {_percent(work)}; a faster network "
            "between learners, --compression=fp16 or a larger --batch_size would help"
        )
    if waiting < WAITING_SHARE:
        return f"balanced: {who} waits {_percent(share['wait'])}, actors {_percent(waiting)}"
    parts = {"gradients": work, "stacking samples": share["stack"], "publishing": share["publish"]}
    most = max(parts, key=lambda name: parts[name])
    others = row.get("learner/allreduce", 0.0) - share["allreduce"]
    enough = max(1, math.ceil(actors * (1 - waiting)))
    words = f"learner-bound: {most} take {_percent(parts[most])} of its time, actors wait {_percent(waiting)}"
    if of == "slowest" and others >= WAITING_SHARE:
        words += f"; the other learners wait for {who}"
    return words + (f"; {enough} of {actors:.0f} actors would do" if enough < actors else "")


def _starved(row: Mapping[str, float], who: str, wait: float, actors: float, waiting: float, fetching: float) -> str:
    waits = f"{who} waits {_percent(wait)}"
    if row.get("receiver/stack", 0.0) > 1 - WAITING_SHARE:
        return f"receiver-bound: {waits} for samples that its receiving thread makes; more learners would help"
    if waiting + fetching >= STALLED_SHARE and "host/busy" not in row:  # else there is no link between them
        most = "weights" if fetching > waiting else "what they send"
        return (
            f"network-bound: {waits} while actors spend {_percent(waiting + fetching)} of their time on the way to it, most of "
            f"it for {most}; a faster link would help"
        )
    if row.get("host/busy", 0.0) >= BUSY_SHARE:
        return f"cpu-bound: {waits} while this machine's cores are {_percent(row['host/busy'])} busy; more of them would help"
    more = max(1, math.ceil(actors * (1 - waiting) / max(1 - wait, 0.01) - actors))
    return (
        f"actor-bound: {waits}; about {more} more actor{'s' if more > 1 else ''} would saturate it ({actors:.0f} now)"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
