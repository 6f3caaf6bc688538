"""README.md of an exported folder: a model card with the YAML that model hubs read.

It says what was trained, how, on which commit, and how it scores under which protocol; nothing that the files of the
run do not say. Not here: how the policy is called (mlma/export/standalone.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlma.core.config import Config
from mlma.core.own_code import find_algorithm
from mlma.evaluation.case_studies.pages import markdown_table
from mlma.evaluation.run_table import read_run
from mlma.evaluation.saved_policy import SavedPolicy
from mlma.export.description import CARD_NAME, Description, signature_lines
from mlma.export.standalone import FILES
from mlma.utils.provenance import git_commit, package_versions

RUNTIMES = {"savedmodel": "tensorflow", "onnx": "onnxruntime", "tflite": "ai-edge-litert"}


def write_card(
    folder: Path, saved: SavedPolicy, description: Description, formats: list[str], licence: str, name: str
) -> Path:
    """Writes the card; its path."""
    evaluations = find_evaluations(saved)
    title = name or f"{description.algorithm} on {description.level}"
    parts = [
        _front_matter(title, description, evaluations, licence),
        f"# {title}\n",
        _introduction(saved, description),
        "## Scores\n",
        _scores(saved, evaluations),
        "## How to use it\n",
        _usage(description, formats),
        "## How it was trained\n",
        _training(saved, licence),
    ]
    path = folder / CARD_NAME
    path.write_text("\n".join(parts))
    return path


def find_evaluations(saved: SavedPolicy) -> list[dict[str, Any]]:
    """The evaluations of this checkpoint, or of another at the same frames; the newest first."""
    found = []
    for path in sorted((saved.logdir / "evaluation").glob("evaluation-*.json"), reverse=True):
        record = _read_json(path)
        if isinstance(record, dict) and record.get("frames") == saved.meta["frames"] and "mean" in record:
            found.append(record)
    return found


def _front_matter(title: str, description: Description, evaluations: list[dict[str, Any]], licence: str) -> str:
    """Strings are written as JSON, which YAML contains."""
    lines = ["---", f"license: {json.dumps(licence)}", "library_name: mlma", "pipeline_tag: reinforcement-learning"]
    lines += ["tags:", "- reinforcement-learning", "- deep-reinforcement-learning"]
    lines += [f"- {json.dumps(tag)}" for tag in (description.algorithm, description.level)]
    if evaluations:
        best = evaluations[0]
        lines += ["model-index:", f"- name: {json.dumps(title)}", "  results:", "  - task:"]
        lines += ["      type: reinforcement-learning", "      name: reinforcement-learning", "    dataset:"]
        lines += [f"      name: {json.dumps(description.level)}", f"      type: {json.dumps(description.level)}"]
        value = f"{best['mean']:.2f} +/- {_deviation(best):.2f}"
        lines += ["    metrics:", "    - type: mean_reward", f'      value: "{value}"', "      name: mean_reward"]
        lines += ["      verified: false"]
    return "\n".join([*lines, "---", ""])


def _deviation(evaluation: dict[str, Any]) -> float:
    """The standard deviation of returns, from the standard error that evaluations record."""
    return float(evaluation["standard_error"]) * float(evaluation["episodes"]) ** 0.5


def _introduction(saved: SavedPolicy, description: Description) -> str:
    several = " (summed over all levels)" if description.levels else ""
    rows = [
        ("level", description.level),
        ("algorithm", description.algorithm),
        ("network", description.network),
        ("frames", f"{description.frames:,}{several}, learner step {saved.meta.get('step', 0):,}"),
        ("actions", f"{len(description.actions)}: {', '.join(description.action_names)}"),
        ("observation", description.observation),
    ]
    return markdown_table(["", ""], [[key, str(value).replace("|", "\\|")] for key, value in rows]) + "\n"


def _scores(saved: SavedPolicy, evaluations: list[dict[str, Any]]) -> str:
    lines = []
    if evaluations:
        rows = [
            [f"{e['mean']:.2f} ± {e['standard_error']:.2f}", f"{e['median']:g}", f"{e['min']:g} to {e['max']:g}",
             f"{e['episodes']}", e["actions"], str(e.get("date", ""))[:10]]
            for e in evaluations
        ]  # fmt: skip
        head = ["mean ± standard error", "median", "range", "episodes", "actions", "date"]
        lines += [markdown_table(head, rows), "", _protocol(saved.config)]
    else:
        lines += ["This checkpoint has not been evaluated; evaluate it before you compare it with anything."]
    try:
        last = [value for value in read_run(saved.logdir).get("return/mean", []) if value == value]
    except ValueError:
        last = []
    if last:
        lines += ["", f"Mean of the last 100 episodes of training: {last[-1]:.2f}."]
    return "\n".join([*lines, ""])


def _protocol(config: Config) -> str:
    """How episodes of an evaluation run."""
    environment = config.environment
    sticky = {-1.0: "sticky actions as the level has them"}.get(
        environment.sticky_actions, f"sticky actions with probability {environment.sticky_actions:g}"
    )
    text = f"Whole episodes with raw rewards; {sticky}; each action for {environment.num_action_repeats} frames"
    if environment.level_name.startswith(("atari", "ALE/")) or "NoFrameskip" in environment.level_name:
        text += f"; up to {environment.noop_max} no-ops at the start; a lost life ends nothing"
    if find_algorithm(config.run.algorithm).head == "q_values":
        text += f"; epsilon {config.run.test_epsilon:g} where actions are sampled"
    return f"{text}."


def _usage(description: Description, formats: list[str]) -> str:
    runtimes = ", ".join(f"`{FILES[each]}` with {RUNTIMES[each]}" for each in formats)
    inputs = [
        [f"`{key}`", spec["dtype"], f"[{', '.join(map(str, ['B', *spec['shape']]))}]"]
        for key, spec in description.inputs.items()
    ]
    outputs = "`action` (greedy), `logits`" + (" (q-values)" if description.head == "q_values" else "") + ", `value`"
    state = ", ".join(f"`{each}`" for each in description.state)
    lines = [
        f"{runtimes}. `policy.py` loads any of them, with numpy and nothing of mlma, and keeps the state:",
        "",
        "```python",
        "from policy import Policy",
        "",
        'policy = Policy(".")',
        "actions = policy(observations, rewards)  # arrays [B, ...]; rewards may be left out for the first step",
        "policy.reset(over)  # a mask [B]: the next observation of these starts an episode",
        "```",
        "",
        "Entry `actions[i]` of `policy.json` is what `env.step` takes for action `i`. The function itself:",
        "",
        markdown_table(["input", "type", "shape"], inputs),
        "",
        f"Outputs: {outputs}" + (f", and `next_...` for {state}." if state else "."),
    ]
    if state:
        lines += [f"The state ({state}) is zeros at first, then what came out. `is_first` starts an episode anew."]
    lines += [f"Signature `{name}`: {names}." for name, names in signature_lines(description)]
    differences = [[each, f"{value:.1e}"] for each, value in description.differences.items()]
    lines += ["", "Largest difference of logits from the network that was trained:", ""]
    return "\n".join([*lines, markdown_table(["format", "difference"], differences), ""])


def _training(saved: SavedPolicy, licence: str) -> str:
    sessions = _read_json(saved.logdir / "sessions.json") or []
    first = sessions[0] if sessions else {}
    rows = [
        ("command", f"`{_tidy(first.get('command', ''))}`" if first else "not recorded"),
        ("commit", first.get("commit") or "not recorded"),
        ("started", first.get("started") or "not recorded"),
        ("checkpoint", saved.checkpoint.name),
        ("exported with", f"commit {git_commit() or 'unknown'}; {_versions()}"),
        ("licence", licence),
    ]
    text = markdown_table(["", ""], [[key, str(value).replace("|", "\\|")] for key, value in rows])
    flags = json.dumps(saved.config.flags(), indent=1)
    return f"{text}\n\n<details><summary>All flags</summary>\n\n```json\n{flags}\n```\n\n</details>\n"


def _tidy(command: str) -> str:
    """The command without the folders of the machine it ran on."""
    words = command.split()
    return " ".join(Path(word).name if word.startswith("/") else word for word in words)


def _versions() -> str:
    return ", ".join(f"{name} {version}" for name, version in package_versions().items())


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
