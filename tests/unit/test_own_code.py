"""Algorithms and networks by the names of modules and files: what is read from their source, and what is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents import make_agent
from agents.networks.zoo import make_network
from mlma.core.catalog import ALGORITHMS
from mlma.core.config import Config, parse
from mlma.core.flat_weights import build_variables
from mlma.core.own_code import find_algorithm, find_network
from mlma.core.presets.resolve import resolve
from mlma.core.types import ArraySpec, EnvSpec
from tests.support.runs import ROOT

VECTOR = EnvSpec(ArraySpec((4,), "float32"), num_actions=3, action_repeats=1)
IMAGE = EnvSpec(ArraySpec((84, 84, 1), "uint8"), num_actions=3, action_repeats=4)
SOURCE = """
import missing_package_that_is_never_imported_by_reading
from agents import apex
from agents.impala import Impala
from own_base import Base
NUMBER = 3
class Mine(Impala):
    supports_popart = False
class Deeper(Mine):
    supports_deterministic = False
class Queue(apex.Apex): pass
class Elsewhere(Base): pass
class Plain: pass
class Like:
    like = "r2d2"
class Unlike:
    like = "a3c"
class Computed(Impala):
    supports_popart = bool(0)
class Wrong(Impala):
    head = "logits"
def net(spec, stack, **options): pass
net.recurrent = True
net.observations = "image"
"""
NETWORKS = """
import sonnet as snt
import tensorflow as tf
from agents.networks.network import Network

class Feet(snt.Module):
    def __init__(self, spec, name=None):
        super().__init__(name)
        self.policy, self.value = snt.Linear(spec.num_actions), snt.Linear(1)
    def __call__(self, timestep):
        x = snt.Flatten(preserve_dims=2)(timestep.observation)
        assert x.dtype == tf.float32
        return snt.BatchApply(self.policy)(x), snt.BatchApply(self.value)(x)[..., 0]

class Memory(Feet):
    def initial_state(self, batch_size):
        return (tf.zeros([batch_size, 2]),)
    def __call__(self, timestep, state):
        return Feet.__call__(self, timestep), state

class Denied(Memory):
    recurrent = False

class Flat(Feet):
    def __call__(self, timestep):
        logits, value = super().__call__(timestep)
        return logits, value[..., None]

class Growing(Memory):
    def __call__(self, timestep, state):
        return Feet.__call__(self, timestep), (tf.concat([state[0], state[0]], 1),)

class Typo(Feet):
    def __call__(self, timestep):
        return self.polcy(timestep)

class Demanding(snt.Module):
    def __init__(self, spec, width):
        super().__init__()

def torso(spec, stack, **options):
    return Network(snt.Sequential([snt.Flatten(), snt.Linear(8)]), spec, stack, **options)

def number(spec):
    return 3

class NoAgent:
    def __init__(self, config, spec):
        self.network = None
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with two modules that no test before has imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own.py").write_text(SOURCE)
    (tmp_path / "own_base.py").write_text("from agents.r2d2 import R2D2\nclass Base(R2D2):\n    head = 'q_values'\n")
    (tmp_path / "nets.py").write_text(NETWORKS)
    yield tmp_path
    for name in ("own", "own_base", "nets"):
        sys.modules.pop(name, None)


def settings(spec: EnvSpec = VECTOR, **flags: Any) -> Config:
    return resolve(Config.from_flags(level_name="catch", **flags), spec, cores=2)


@pytest.mark.parametrize("module", ["own", "./own.py"])
def test_an_algorithm_has_the_properties_of_the_class_that_it_extends(module: str) -> None:
    impala, (mine, deeper) = ALGORITHMS["impala"], (find_algorithm(f"{module}:{name}") for name in ("Mine", "Deeper"))
    assert mine.presets is impala.presets
    assert (mine.supports_popart, mine.supports_real_actions, mine.supports_deterministic) == (False, True, True)
    assert (deeper.supports_popart, deeper.supports_deterministic) == (False, False)
    assert find_algorithm(f"{module}:Queue").presets is ALGORITHMS["apex"].presets
    assert find_algorithm(f"{module}:Queue").uses_replay
    assert find_algorithm(f"{module}:Elsewhere").learns_sequences, "its base is in another module"
    assert find_algorithm(f"{module}:Like").presets is ALGORITHMS["r2d2"].presets
    plain = find_algorithm(f"{module}:Plain")
    assert (plain.presets, plain.uses_replay, plain.supports_popart) == (impala.presets, False, False)


def test_a_network_says_what_it_is_or_says_nothing() -> None:
    own = find_network("own:net")
    assert (own.observations, own.recurrent, own.deterministic_shards) == ("image", True, False)
    silent = find_network("nets:Feet")
    assert (silent.observations, silent.recurrent) == ("any", None)


@pytest.mark.parametrize(
    ("flag", "name", "words"),
    [
        ("algorithm", "nowhere:A2C", "cannot import nowhere: no module of that name"),
        ("algorithm", "own.inner:A2C", "cannot import own.inner: no module of that name"),
        ("algorithm", "./nowhere.py:A2C", "./nowhere.py: no such file in "),
        ("algorithm", "./broken.py:A2C", "SyntaxError at "),
        ("algorithm", "own:A2C", "own has no A2C; it has Mine, Deeper"),
        ("algorithm", "own:NUMBER", "is neither a class nor a function; it has Mine"),
        ("algorithm", "own:Unlike", "like must be one of impala, apex, r2d2"),
        ("algorithm", "own:Computed", "supports_popart must be one of True, False as a plain value"),
        ("algorithm", "own:Wrong", "head must be one of 'policy', 'q_values'"),
        ("agent_name", "nets:Nothing", "nets has no Nothing; it has Feet, Memory"),
        ("agent_name", "own:net", "catch has vector observations"),
    ],
)
def test_a_mistake_is_found_in_the_source(folder: Path, flag: str, name: str, words: str) -> None:
    (folder / "broken.py").write_text("class A2C(\n")
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        settings(VECTOR, **{flag: name})
    assert str(caught.value).startswith(f"--{flag}={name}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["./own.py", "own:", ":Mine", "own:Mine.x", "own:Mi ne"])
def test_a_name_must_have_a_module_and_an_object(text: str) -> None:
    with pytest.raises(ValueError, match=r"must name an object, as in module:NAME or ./file.py:NAME"):
        parse([f"--algorithm={text}"])
    with pytest.raises(ValueError, match=r"must be one of impala, apex, r2d2, module:NAME, ./file.py:NAME"):
        parse(["--algorithm=Mine"])


def test_reading_a_module_neither_runs_it_nor_imports_tensorflow() -> None:
    script = (
        "import sys\nfrom mlma.core.config import parse\nfrom mlma.core.own_code import find_algorithm, find_network\n"
        "name = parse(['--algorithm=own:Mine']).run.algorithm\n"
        "find_algorithm(name), find_network('nets:Memory')\n"
        "assert not {'tensorflow', 'sonnet', 'agents', 'own', 'nets'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": str(ROOT)}, timeout=60)


@pytest.mark.parametrize("name", ["nets:Feet", "nets:Memory", "./nets.py:torso"])
def test_an_own_network_acts_with_every_algorithm_that_can_use_it(name: str) -> None:
    for algorithm in ("impala", "apex") if "Memory" not in name else ("impala", "r2d2"):
        for spec in (VECTOR, IMAGE):
            config = settings(spec, agent_name=name, algorithm=algorithm, num_stacked_frames=4)
            agent = make_agent(config, spec)
            build_variables(agent, spec)
            assert len(agent.network.trainable_variables) >= 4
    network = make_network(settings(VECTOR, agent_name=name, normalize_observations="on"), VECTOR)
    assert network.normalizer is not None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nets:Denied", "says recurrent = False, but its initial_state says True"),
        ("nets:Flat", "its value are float32 [2, 3, 1] for [T=2, B=3]; must be float32 [2, 3]"),
        ("nets:Growing", "its state has the shapes [(3, 4)] after a call; must be [(3, 2)] as before"),
        ("nets:Typo", "AttributeError at "),
        ("nets:Demanding", "needs an argument width; it is given spec, stack, "),
        ("nets:number", "makes a int, which is no Sonnet module"),
        ("nets:snt", "has no class or function snt"),
        ("own:Mine", "cannot import own: ModuleNotFoundError"),
    ],
)
def test_an_own_network_that_cannot_be_used_is_one_line(name: str, words: str) -> None:
    config = Config.from_flags(agent_name=name)
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        make_network(config, VECTOR)
    assert str(caught.value).startswith(f"--agent_name={name}: ")
    assert "\n" not in str(caught.value)


def test_a_whole_network_without_popart_says_which_flag_it_needs() -> None:
    with pytest.raises(ValueError, match=r"has no value_head.*allowed: --normalize_returns=off"):
        make_network(Config.from_flags(agent_name="nets:Feet", normalize_returns="on"), VECTOR)


def test_a_memory_that_is_not_declared_still_bounds_the_unroll() -> None:
    with pytest.raises(ValueError, match=r"--unroll_length=5000: must be at most .* with --agent_name=nets:Memory"):
        make_agent(settings(agent_name="nets:Memory", unroll_length=5000), VECTOR)


def test_an_own_algorithm_that_is_none_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"--algorithm=nets:NoAgent: is no .*Agent: it has no act, batch_loss"):
        make_agent(settings(algorithm="nets:NoAgent"), VECTOR)
