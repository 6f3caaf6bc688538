"""policy.json and policy.py of an exported folder: what goes into the policy and comes out, and a loader for it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mlma.core.own_code import find_algorithm
from mlma.core.types import ChoicePart
from mlma.envs.registry import level_names, raw_level
from mlma.envs.vector.multi_level import action_names
from mlma.evaluation.saved_policy import SavedPolicy
from mlma.export import standalone
from mlma.export.policy_function import STACK, PolicyFunction
from mlma.export.standalone import FILES

DESCRIPTION_NAME, CARD_NAME, LOADER_NAME = "policy.json", "README.md", "policy.py"
OF_THE_LEVEL = "what gymnasium gives: {}"
CONVERTED = (
    "images side by side as channels, everything else as one vector in the order of the space, a choice as one-hot"
)


@dataclasses.dataclass
class Description:
    """The contents of policy.json."""

    level: str
    algorithm: str
    network: str
    head: str  # "policy" or "q_values": what the logits are
    frames: int  # it was trained for
    checkpoint: str
    action_repeats: int
    actions: list[Any]  # action i of the policy is entry i, as env.step takes it
    action_names: list[str]
    # Of actions with real numbers, which have no list: for each element, whether -1 and 1 are its bounds, or the number
    # of alternatives of a choice. Scale them to the level's own bounds, and clip them.
    action_elements: list[Any]
    observation: str  # what the inputs are made from
    inputs: dict[str, dict[str, Any]]  # name -> dtype and shape without the batch
    state: list[str]  # inputs that are zeros at first, and afterwards the outputs next_...
    stacked_inputs: dict[str, dict[str, Any]]  # of the SavedModel's signature act_on_stacks; empty without a stack
    levels: list[str]  # of a run with several: the input level is an index
    differences: dict[str, float]  # format -> largest difference of logits from the original's


def describe(saved: SavedPolicy, function: PolicyFunction) -> Description:
    """The description, without differences."""
    config, spec = saved.config, saved.spec
    names = level_names(config.environment.level_name)
    raw = raw_level(names[0], config.environment) if len(names) == 1 else None
    shape = ", ".join(map(str, spec.observation.shape))
    observation = f"{spec.observation.dtype} [{shape}], as the level of mlma gives it"
    actions: list[Any] = list(range(spec.num_actions))
    if raw:
        plain = raw.space.shape == spec.observation.shape
        observation = OF_THE_LEVEL.format(raw.space) + ("" if plain else f"; {CONVERTED}")
        actions = [_plain(raw.env_action(index)) for index in actions]
    has_frames = "frames" in function.inputs
    return Description(
        level=config.environment.level_name,
        algorithm=config.run.algorithm,
        network=config.run.agent_name,
        head=find_algorithm(config.run.algorithm).head,
        frames=int(saved.meta["frames"]),
        checkpoint=saved.checkpoint.name,
        action_repeats=spec.action_repeats,
        actions=actions,
        action_names=list(action_names(spec)),
        action_elements=[
            element
            for part in spec.action_parts
            for element in ([part.alternatives] if isinstance(part, ChoicePart) else part.bounded)
        ],
        observation=observation,
        inputs=_arrays(function.inputs),
        state=["frames"] * has_frames + function.state_names,
        stacked_inputs=_arrays(function.stack_inputs) if has_frames else {},
        levels=names if len(names) > 1 else [],
        differences={},
    )


def _arrays(specs: dict[str, tf.TensorSpec]) -> dict[str, dict[str, Any]]:
    return {name: {"dtype": spec.dtype.name, "shape": list(spec.shape[1:])} for name, spec in specs.items()}


def _plain(action: Any) -> Any:
    """An action as JSON has it."""
    if isinstance(action, dict):
        return {name: _plain(part) for name, part in action.items()}
    return [_plain(part) for part in action] if isinstance(action, tuple) else np.asarray(action).tolist()


def prepare_folder(folder: Path) -> None:
    """Removes an earlier export; ValueError if the folder has anything else."""
    own = {DESCRIPTION_NAME, CARD_NAME, LOADER_NAME, "__pycache__", *FILES.values()}
    others = sorted(path.name for path in folder.iterdir() if path.name not in own)
    if others or (any(folder.iterdir()) and not (folder / DESCRIPTION_NAME).is_file()):
        what = others[0] if others else "files"
        raise ValueError(f"--output={folder}: has {what} that this command did not write; allowed: a folder of its own")
    for name in own:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_description(folder: Path, description: Description) -> None:
    """Writes policy.json, and policy.py, which reads it."""
    (folder / DESCRIPTION_NAME).write_text(json.dumps(dataclasses.asdict(description), indent=1) + "\n")
    shutil.copyfile(standalone.__file__, folder / LOADER_NAME)


def signature_lines(description: Description) -> list[tuple[str, str]]:
    """(signature of the SavedModel, its inputs) in words."""
    lines = [("serving_default", ", ".join(description.inputs))]
    if STACK in description.stacked_inputs:
        lines.append(("act_on_stacks", ", ".join(description.stacked_inputs)))
    return lines
