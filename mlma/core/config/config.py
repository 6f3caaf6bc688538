"""Every flag, once: a field of `Config` is the flag, its default, its type; the comment before it is its help text.

Command line <-> Config <-> logdir/config.json. Imports nothing heavy, so that a typo is answered at once. What a value of 0
or "auto" means for a level is settled in `mlma.core.presets.resolve`. Not here: what the flags do.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import json
import math
import re
import sys
import textwrap
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

Asked = TypeVar("Asked")


@dataclasses.dataclass(frozen=True)
class Config:
    # == The run
    # what is played: atari_pong, PongNoFrameskip-v4, ALE/Pong-v5 (sticky actions), doom_basic, a level of DeepMind Lab, any
    # gymnasium id, module:Id, catch, corridor, tmaze; several with commas between; the sets atari57 and dmlab30; help lists all
    level_name: str = "PongNoFrameskip-v4"
    # folder of the run: config, checkpoints, metrics; a run found there is resumed
    logdir: str = "/tmp/agent"
    # train, or test: play test_num_episodes with a checkpoint of logdir
    mode: Literal["train", "test"] = "train"
    # the paper
    algorithm: Literal["impala", "apex", "r2d2"] = "impala"
    # the network; auto is the preset of the level
    agent_name: Literal[
        "auto", "ShallowConvNetAgent", "SimpleConvNetAgent", "ConvNetAgent", "ConvLSTMAgent", "ResNetLSTMAgent", "MLPAgent",
        "MLPLSTMAgent",
    ] = "auto"  # fmt: skip
    # frames to train for, summed over all learners; a frame is one of the emulator, so that a step is num_action_repeats
    # frames; 0 is the preset of the level
    total_environment_frames: float = 0.0
    # seed of the weights and of the environments
    seed: int = 1
    # actors and learners take turns, and all that is drawn follows from seed and actor: the same flags give the same numbers,
    # in logdir/curve.csv; slower; impala only, and one actor where none is asked for: docs/seeing.md
    deterministic: bool = False
    # episodes to play in test mode, of each level
    test_num_episodes: int = 10
    # what is played in test mode: actions drawn as in training, or always the one that the network likes best
    test_actions: Literal["sampled", "greedy"] = "sampled"
    # test mode: write the best, the median and the worst episode to logdir/videos as MP4 and GIF
    record_video: bool = False
    # which checkpoint test mode plays: last, best, or a file
    test_checkpoint: str = "last"

    # == Processes
    # learner or actor; needed with task >= 0
    job_name: Literal["learner", "actor"] = "learner"
    # which learner or actor this is; -1 is local training: a learner that starts its own actors
    task: int = -1
    # where the learner listens: host:port, unix:/path, or auto: a private socket in local training, else localhost:8001
    learner_host: str = "auto"
    # one host:port per actor; only their number matters, since actors open no port
    actor_hosts: str = "localhost:9001,localhost:9002"
    # actors of each learner; 0 is one per core in local training, else one for each of actor_hosts
    num_actors: int = 0
    # environments that one actor steps together, with one inference for all of them; 0 is the preset of the level
    envs_per_actor: int = 0
    # threads that step environments in one actor: Atari
    env_threads: int = 1
    # worker processes that step the environments of one actor; 0 is none for gymnasium, one for VizDoom, one for each
    # environment for DeepMind Lab
    env_processes: int = 0
    # seconds after which an environment process that does not answer is replaced
    env_seconds: float = 300.0
    # threads of TensorFlow in one actor
    actor_threads: int = 1
    # threads of TensorFlow in the learner; 0 is all cores
    learner_threads: int = 0
    # in how many parts, side by side, the learner computes a sample: a divisor of batch_size; 0 is two for each thread, one
    # with an LSTM, and 1 in all for vectors, for Ape-X and with --inference=learner; on a GPU it is always 1
    learner_parts: int = 0
    # file with the secret shared by learner and actors (mode 0600); MLMA_TOKEN in the environment goes before it
    token_file: str = ""
    # learners of the run: with task -1 they are started here, by mpirun, each with num_actors actors of its own; 0 is as many
    # as mpirun has started, or one
    num_learners: int = 0
    # how often learners that crashed or hung are started again from their last checkpoint (with task -1 and num_learners)
    max_restarts: int = 0
    # seconds after which a learner without data takes part with weight zero instead of keeping the others waiting
    idle_seconds: float = 10.0
    # seconds after which a learner that keeps the others waiting is named, and the run ended
    hang_seconds: float = 60.0
    # folder on this host where the worker notes how it is, for `python -m mlma.monitoring.health_check`; empty is nowhere
    health_folder: str = ""
    # what gradients travel as between learners
    compression: Literal["none", "fp16"] = "none"
    # seconds for which an actor looks for a learner that it lost or has not found yet, before it gives up
    reconnect_seconds: float = 3600.0

    # == Inference
    # where actions are computed: by each actor, with weights that it fetches; or by its learner for all of its actors, in
    # batches: for learners with a GPU, or networks too deep for the cores of actors: docs/inference.md
    inference: Literal["actor", "learner"] = "actor"
    # most environments in a batch of the learner; 0 is those of all its actors, but at most 512
    inference_batch: int = 0
    # milliseconds for which a batch that is not full waits for more environments
    inference_wait_ms: float = 1.0
    # sizes that batches are filled up to, ascending, with commas between, the last one being inference_batch; empty is none
    inference_sizes: str = ""

    # == Environment
    # frames for which an action is repeated (Atari max-pools the last two); 0 is the level's own: 4, or 1 for gymnasium
    num_action_repeats: int = 0
    # width of the image; 0 is the level's own: 84 for Atari, 128 for VizDoom, 96 for DeepMind Lab
    width: int = 0
    # height of the image; 0 is the level's own: 84 for Atari, 72 for VizDoom and DeepMind Lab
    height: int = 0
    # colours of the image; auto is the level's own: grey for Atari, rgb for the others
    colours: Literal["auto", "grey", "rgb"] = "auto"
    # frames that the network sees at once; 0 is the preset of the level
    num_stacked_frames: int = 0
    # probability that the last action is repeated instead; -1 is the level's own: .25 for ALE/*-v5, else 0
    sticky_actions: float = -1.0
    # most no-ops at the start of a game
    noop_max: int = 30
    # a lost life ends the return for learning; the game goes on; never with r2d2
    life_loss_ends_return: bool = True
    # all 18 actions of the console instead of those that the game uses
    full_action_space: bool = False
    # what becomes of rewards before learning: abs_one, soft_asymmetric or none; one for each level with commas between; metrics
    # show them raw; auto is none for r2d2 and VizDoom, soft_asymmetric for DeepMind Lab, else abs_one
    reward_clipping: str = "auto"
    # folder with scenario files of VizDoom, which go before those of packages
    doom_scenarios: str = ""
    # folder where DeepMind Lab's compiled maps are kept for all actors of a host; nothing keeps none
    level_cache: str = "~/.cache/mlma/dmlab"
    # folder with the pictures that DeepMind Lab's psychlab levels show
    dataset_path: str = ""
    # what DeepMind Lab draws with
    dmlab_renderer: Literal["software", "hardware"] = "software"

    # == Learning
    # trajectories in a sample, of each learner; transitions with apex, sequences with r2d2; 0 is the preset of the level
    batch_size: int = 0
    # steps of a trajectory; 0 is the preset of the level
    unroll_length: int = 0
    # how often a trajectory is trained on; 0 is the preset of the level, 1 is the paper's
    sample_reuse: int = 0
    # trajectories that wait in the learner's queue; 0 is one batch
    queue_capacity: int = 0
    # discount factor gamma; -1 is the preset of the algorithm
    discounting: float = -1.0
    # weight of the entropy bonus; -1 is the preset of the level
    entropy_cost: float = -1.0
    # weight of the value loss; -1 is the preset of the level
    baseline_cost: float = -1.0
    # lambda of V-trace; -1 is the preset of the level, 1 is the paper's
    vtrace_lambda: float = -1.0
    # rho_bar of V-trace
    clip_rho_threshold: float = 1.0
    # how far, as a ratio minus one, a sample may move an action's probability from that of the policy that acted; -1 is the
    # preset of the level, 0 is no limit, as in the paper
    policy_clip: float = -1.0
    # normalises values and advantages by level, so that no level's rewards drown another's: impala
    popart: bool = False
    # rho_bar of the policy gradient
    clip_pg_rho_threshold: float = 1.0

    # == Replay: apex and r2d2
    # steps that the replay of each learner holds; 0 is the preset of the level
    replay_capacity: int = 0
    # steps in the replay of each learner when learning begins; 0 is the preset of the level
    replay_min_fill: int = 0
    # steps trained on for each step inserted, kept by letting actors or the learner wait; 0 is the preset of the level
    replay_ratio: float = 0.0
    # frames are compressed in the replay, without loss; what it costs and gains: docs/replay.md
    replay_compression: bool = False
    # the replay is saved beside each checkpoint and restored with it; else it is filled anew when a run is resumed
    checkpoint_replay: bool = False
    # alpha: how much priorities count when samples are drawn; -1 is the preset of the level
    priority_exponent: float = -1.0
    # beta: how much of that the weights of the loss take back; -1 is the preset of the level
    importance_exponent: float = -1.0
    # eta: weight of the largest error of a sequence in its priority; the rest is their mean's
    priority_eta: float = 0.9
    # steps of reward before a return goes on with a value; 0 is the preset of the level
    n_step: int = 0
    # learner steps between two copies of the weights into the target network; 0 is the preset of the level
    target_period: int = 0
    # steps that warm up the recurrent state of a sequence, without gradient; -1 is the preset of the level
    burn_in: int = -1
    # transitions of a sequence that are learned from; sequences begin unroll_length apart, and overlap by the rest; 0 is the
    # preset of the level
    sequence_length: int = 0
    # epsilon of the environment that explores most; environment i of N has exploration_base^(1 + exploration_exponent i/(N-1))
    exploration_base: float = 0.4
    # see exploration_base
    exploration_exponent: float = 7.0
    # epsilon in test mode
    test_epsilon: float = 0.001

    # == Optimizer
    # which one; auto is the preset of the level
    optimizer: Literal["auto", "rmsprop", "rmsprop_centered", "adam"] = "auto"
    # step size at the start; 0 is the preset of the level
    learning_rate: float = 0.0
    # step size after total_environment_frames, reached linearly; -1 is the preset of the level
    end_learning_rate: float = -1.0
    # how the step size grows with the number of learners
    learning_rate_scaling: Literal["none", "linear", "sqrt"] = "none"
    # decay of RMSProp's mean square; -1 is the preset of the algorithm
    decay: float = -1.0
    # momentum of RMSProp, beta_1 of Adam
    momentum: float = 0.0
    # epsilon of the optimizer, within RMSProp's root; 0 is the preset of the level
    epsilon: float = 0.0
    # global norm at which gradients are clipped; -1 is never, 0 the preset of the level
    gradients_clipping: float = 0.0

    # == Records
    # seconds between two reports on the console, to TensorBoard and to metrics.csv
    report_every_seconds: float = 5.0
    # learner steps between two reports, in place of seconds; 0 is by the clock, and 100 with deterministic
    report_every_steps: int = 0
    # seconds between two checkpoints
    checkpoint_every_seconds: float = 300.0
    # how many of the last checkpoints to keep, beside the best
    keep_checkpoints: int = 3
    # frames between two evaluations during training, each a process of its own beside the learner, with the flags of test mode;
    # 0 is never
    evaluate_every: float = 0.0
    # every so many games of its first environment, actor 0 films one: logdir/videos/training on its host; 0 is never
    video_every_episodes: int = 0
    # where reports go beside console and CSV: tensorboard, wandb, mlflow, with commas between; the last two need their package
    writers: str = "tensorboard"
    # seconds of a TensorFlow profile of the learner and of a trace of it and actor 0 on one time axis, taken early in the run,
    # in logdir/profile; 0 is none
    profile: float = 0.0
    # seconds without a trajectory after which the learner says what it waits for
    starved_seconds: float = 60.0


@dataclasses.dataclass(frozen=True)
class Flag:
    name: str
    group: str
    help: str
    type: Any
    default: Any

    @property
    def allowed(self) -> str:
        if typing.get_origin(self.type) is Literal:
            return ", ".join(typing.get_args(self.type))
        return {int: "an integer", float: "a number", bool: "true or false", str: "text"}[self.type]

    def parse(self, text: str) -> Any:
        """The value that `text` stands for; ValueError in one line if it stands for none."""
        try:
            if typing.get_origin(self.type) is Literal:
                if text in typing.get_args(self.type):
                    return text
            elif self.type is bool:
                return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
            elif self.type is int:
                number = float(text)  # so that 1e9 is an integer too
                if number == int(number):
                    return int(number)
            elif self.type is float:
                if math.isfinite(number := float(text)):
                    return number
            else:
                return text
        except (ValueError, KeyError, OverflowError):
            pass
        near = nearest(text, typing.get_args(self.type)) if typing.get_origin(self.type) is Literal else ""
        raise ValueError(f"--{self.name}={text}: must be {self.allowed}{near}")


@functools.cache
def flags(of: type = Config) -> dict[str, Flag]:
    """All flags by name, in order, read from the source of `Config`, or of another dataclass that is written like it."""
    types = typing.get_type_hints(of)
    defaults = {field.name: field.default for field in dataclasses.fields(of)}
    found: dict[str, Flag] = {}
    group, comment = "", []
    for line in inspect.getsource(of).splitlines():
        if match := re.match(r"    # == (.*)", line):
            group = match[1]
        elif match := re.match(r"    # (.*)", line):
            comment.append(match[1])
        elif (match := re.match(r"    (\w+):", line)) and match[1] in types:
            found[match[1]] = Flag(match[1], group, " ".join(comment), types[match[1]], defaults[match[1]])
            comment = []
    return found


def nearest(word: str, words: typing.Iterable[str], say: str = "; nearest: {}") -> str:
    near = difflib.get_close_matches(word, list(words), n=3, cutoff=0.5)
    return say.format(", ".join(near)) if near else ""


def parse(argv: list[str]) -> Config:
    """The configuration that a command line asks for; --config=FILE first, flags override it. ValueError in one line."""
    return parse_with(argv, None)[0]


def parse_with(argv: list[str], others: type | None) -> tuple[Config, dict[str, Any]]:
    """The configuration, and what was given of the flags of another dataclass, which must have other names."""
    known = flags() | (flags(others) if others else {})
    given = _split(argv, known)
    values: dict[str, Any] = {}
    if "config" in given:
        path = given.pop("config")
        if path is None:
            raise ValueError("--config: needs a value, the name of a file")
        values |= load(path)
    for name, text in given.items():
        flag = known[name]
        if text is None:
            if flag.type is not bool:
                raise ValueError(f"--{name}: needs a value, {flag.allowed}")
            text = "true"
        values[name] = flag.parse(text)
    config = Config(**{name: value for name, value in values.items() if name in flags()})
    _check(config)
    return config, {name: value for name, value in values.items() if name not in flags()}


def _split(argv: list[str], known: dict[str, Flag]) -> dict[str, str | None]:
    """--name=value, --name value and --noname, as a dictionary of known names."""
    given: dict[str, str | None] = {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise ValueError(f"{word}: not a flag; flags look like --level_name=PongNoFrameskip-v4")
        name, equals, text = word[2:].partition("=")
        name = name.replace("-", "_")
        if name not in known and not equals and name.startswith("no") and known.get(name[2:]) and known[name[2:]].type is bool:
            name, equals, text = name[2:], "=", "false"
        if name not in known and name != "config":
            raise ValueError(f"--{name}: no such flag{nearest(name, known, '; nearest: --{}').replace(', ', ', --')}")
        if equals:
            given[name] = text
        elif rest and not rest[0].startswith("--"):
            given[name] = rest.pop(0)
        else:
            given[name] = None
    return given


WRITERS = ("tensorboard", "wandb", "mlflow")
AT_LEAST = {  # the smallest sensible value of a number
    "total_environment_frames": 0, "test_num_episodes": 1, "task": -1, "num_actors": 0, "envs_per_actor": 0, "env_threads": 1,
    "actor_threads": 1, "learner_threads": 0, "learner_parts": 0, "num_action_repeats": 0, "width": 0, "height": 0,
    "num_stacked_frames": 0,
    "noop_max": 0, "batch_size": 0, "unroll_length": 0, "queue_capacity": 0, "sample_reuse": 0, "discounting": -1,
    "vtrace_lambda": -1, "policy_clip": -1,
    "clip_rho_threshold": 0, "clip_pg_rho_threshold": 0, "learning_rate": 0, "end_learning_rate": -1, "epsilon": 0,
    "report_every_seconds": 0.1, "report_every_steps": 0, "evaluate_every": 0, "video_every_episodes": 0, "profile": 0,
    "checkpoint_every_seconds": 0, "keep_checkpoints": 1, "starved_seconds": 0.1,
    "reconnect_seconds": 0, "num_learners": 0, "max_restarts": 0, "idle_seconds": 0.1, "hang_seconds": 1, "momentum": 0,
    "decay": -1, "baseline_cost": -1, "seed": 0, "replay_capacity": 0, "replay_min_fill": 0, "replay_ratio": 0,
    "priority_exponent": -1, "importance_exponent": -1, "priority_eta": 0, "n_step": 0, "target_period": 0, "burn_in": -1,
    "env_processes": 0, "env_seconds": 0.1, "inference_batch": 0, "inference_wait_ms": 0,
    "sequence_length": 0, "exploration_base": 0, "exploration_exponent": 0, "test_epsilon": 0,
}  # fmt: skip
AT_MOST = {
    "discounting": 1, "vtrace_lambda": 1, "sticky_actions": 1, "decay": 1, "momentum": 1, "seed": 2**31 - 1,
    "priority_eta": 1, "exploration_base": 1, "test_epsilon": 1,
}  # fmt: skip


CLIPPINGS = ("abs_one", "soft_asymmetric", "none")


def _check(config: Config) -> None:
    wrong = [how for how in config.reward_clipping.split(",") if how not in CLIPPINGS]
    if wrong and config.reward_clipping != "auto":
        allowed = f"auto, or of {', '.join(CLIPPINGS)} one for all levels or one for each"
        raise ValueError(f"--reward_clipping={config.reward_clipping}: must be {allowed}{nearest(wrong[0], CLIPPINGS)}")
    if config.hang_seconds <= config.idle_seconds:
        raise ValueError(f"--hang_seconds={config.hang_seconds}: must be more than --idle_seconds={config.idle_seconds}")
    _check_inference(config)
    for name in config.writers.split(","):
        if name not in ("", *WRITERS):
            allowed = f"{', '.join(WRITERS)}, with commas between"
            raise ValueError(f"--writers={config.writers}: {name}: no such writer; allowed: {allowed}")
    for name, least in AT_LEAST.items():
        if not getattr(config, name) >= least:
            raise ValueError(f"--{name}={getattr(config, name)}: must be at least {least}")
    for name, most in AT_MOST.items():
        if not getattr(config, name) <= most:
            raise ValueError(f"--{name}={getattr(config, name)}: must be at most {most}")


def _check_inference(config: Config) -> None:
    if config.inference == "learner" and config.deterministic:
        raise ValueError("--inference=learner: not with --deterministic, since batches depend on the clock; allowed: actor")
    if config.inference_sizes:
        words = config.inference_sizes.split(",")
        sizes = [int(word) for word in words if word.isdigit() and int(word)]
        if len(sizes) < len(words) or sizes != sorted(set(sizes)) or sizes[-1] != config.inference_batch:
            raise ValueError(
                f"--inference_sizes={config.inference_sizes}: must be ascending numbers with commas between, the last one "
                f"--inference_batch={config.inference_batch}"
            )


def load(path: str) -> dict[str, Any]:
    """The flags that `save` wrote; ValueError that names the file if it is none of ours."""
    try:
        values = json.loads(Path(path).read_text())
    except OSError as error:
        raise ValueError(f"--config={path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"--config={path}: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"--config={path}: must hold an object of flags")
    parsed = {}
    for name, value in values.items():
        if name not in flags():
            raise ValueError(f"--config={path}: {name}: no such flag{nearest(name, flags())}")
        text = str(value).lower() if isinstance(value, bool) else str(value)
        try:
            parsed[name] = flags()[name].parse(text)
        except ValueError as error:
            raise ValueError(f"--config={path}: {error}") from None
    return parsed


def save(config: Config, path: Path) -> None:
    path.write_text(json.dumps(dataclasses.asdict(config), indent=1) + "\n")


def to_argv(config: Config) -> list[str]:
    """The command line that makes this configuration: only what differs from the defaults."""
    words = []
    for name, flag in flags().items():
        value = getattr(config, name)
        if value != flag.default:
            words.append(f"--{name}={str(value).lower() if isinstance(value, bool) else value}")
    return words


def help_text(of: type = Config, usage: tuple[str, ...] = ("usage: python experiment.py [--flag=value ...]",)) -> str:
    lines = [*usage]
    if of is Config:
        lines += ["", "  --config=FILE"]
        lines += ["      read flags from a run's logdir/config.json; flags on the command line go before it"]
    group = ""
    for flag in flags(of).values():
        if flag.group != group:
            group = flag.group
            lines += ["", f"{group}:"]
        allowed = f" [{flag.allowed}]" if typing.get_origin(flag.type) is Literal else ""
        lines.append(f"  --{flag.name}={str(flag.default).lower() if flag.type is bool else flag.default}")
        lines += textwrap.wrap(flag.help + allowed, width=110, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def parse_or_exit(argv: list[str]) -> Config:
    """For the entry points that train or measure."""
    return answer(argv, parse, help_text)


def answer(argv: list[str], parse: Callable[[list[str]], Asked], help_text: Callable[[], str]) -> Asked:
    """What an entry point was asked for: --help prints the flags; a mistake is one line and exit code 2."""
    if any(word in ("-h", "--help") for word in argv):
        print(help_text())
        sys.exit(0)
    try:
        return parse(argv)
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
