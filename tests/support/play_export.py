"""Plays the observations in a file with an exported folder, in a process without this package.

python -I play_export.py FILE FOLDER:FORMAT ...: writes FORMAT's logits and actions beside each folder.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    given = np.load(sys.argv[1])
    for argument in sys.argv[2:]:
        folder, _, name = argument.rpartition(":")
        spec = importlib.util.spec_from_file_location("policy", Path(folder) / "policy.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        policy = module.Policy(folder, name)
        logits: list[Any] = []
        actions: list[Any] = []
        for observation, reward, starts in zip(given["observation"], given["reward"], given["starts"], strict=True):
            if actions:
                policy.reset(starts)
            actions.append(policy(observation, reward))
            logits.append(policy.outputs["logits"])
        np.savez(f"{folder}-{name}.npz", logits=logits, action=actions)
    ours = {"mlma", "agents", "sonnet", "gymnasium"} & sys.modules.keys()
    assert not ours, ours


main()
