"""`mlma install-learner`, `mlma install-vizdoom` and others: add what the package does not depend on to this Python.

Horovod has no wheel. It is built against the TensorFlow of this environment with the settings that pyproject.toml has
for uv, since pip knows no such settings. In a checkout, `make install-learner` does the same.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from typing import Any

from mlma.utils.child_process import EXIT_USAGE
from mlma.utils.code_layout import IS_INSTALLED, ROOT
from mlma.utils.console_streams import print_text

NEWEST_COMPILER = 13  # of g++ that compiles Horovod, whose flatbuffers g++ 14 refuses; tools/setup.sh has it, too
ABOUT = {
    "install-learner": "Installs Open MPI, then compiles Horovod with g++ and make. 2 to 5 minutes. Needed by several "
    "learners.",
    "install-vizdoom": "Installs VizDoom and two maps. Nothing is compiled.",
    "install-dmlab": "Installs what the package deepmind_lab imports: dm_env, pkg_resources (in setuptools 81), and "
    "imp for Python 3.12 and later. Needed on hosts with actors. Nothing is compiled. The Lab itself is in no index.",
    "install-mujoco": "Installs MuJoCo. Needed on hosts with actors. Nothing is compiled.",
    "install-box2d": "Installs Box2D. Needed on hosts with actors. There are no wheels for aarch64.",
    "install-export": "Installs tf2onnx, ONNX Runtime and LiteRT. Nothing is compiled.",
    "install-optuna": "Installs Optuna and cmaes. Needed where a study is started. Nothing is compiled.",
}
AFTERWARDS = {  # what a target leaves to the user
    "install-dmlab": "installed what the package deepmind_lab imports; the Lab itself is in no package index: build it "
    "from github.com/google-deepmind/lab for this Python, then name its folder, or its file deepmind_lab.so, with "
    "--dmlab_path",
}


def main(argv: list[str]) -> int:
    """The exit code of the last command that ran."""
    target, flags = argv[0], argv[1:]
    if flags:
        asked = flags[0] in ("-h", "--help")
        return (
            print_text(f"usage: mlma {target}\n\n{ABOUT[target]}")
            if asked
            else _mistake(f"mlma {target} takes no {flags[0]!r}")
        )
    if not IS_INSTALLED:
        return _mistake(f"this is a checkout, which has its own set-up; use: make {target}")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    if target == "install-learner":
        if missing := [tool for tool in ("g++", "make") if not shutil.which(tool)]:
            return _mistake(f"Horovod is compiled, which needs {' and '.join(missing)}: apt-get install g++ make")
        compiler = _compiler()
        if not shutil.which(compiler):
            return _mistake(f"Horovod does not compile with this g++, but with {compiler}: apt-get install {compiler}")
        os.environ["CXX"] = compiler
        print("compiling Horovod against the TensorFlow of this Python: 2 to 5 minutes", flush=True)
    for arguments, variables in steps(target, project):
        installer = _installer()
        print(f"+ {' '.join([*installer, *arguments])}", flush=True)
        code = subprocess.run([*installer, *arguments], env=os.environ | variables, check=False).returncode
        if code:
            return code
    if target in AFTERWARDS:
        print(AFTERWARDS[target])
    return 0


def steps(target: str, project: dict[str, Any]) -> list[tuple[list[str], dict[str, str]]]:
    """(arguments of pip, environment variables) of each step."""
    if target == "install-vizdoom":
        with_maps = [each for each in project["dependency-groups"]["vizdoom"] if "sample-factory" in each]
        return [(project["project"]["optional-dependencies"]["vizdoom"], {}), (["--no-deps", *with_maps], {})]
    if target != "install-learner":
        return [(project["dependency-groups"][target.removeprefix("install-")], {})]
    uv, learner = project["tool"]["uv"], project["project"]["optional-dependencies"]["learner"]
    horovod = [each for each in learner if each.startswith("horovod")]
    tools = [each for each in uv["extra-build-dependencies"]["horovod"] if isinstance(each, str)]
    (declared,) = [each for each in uv["dependency-metadata"] if each["name"] == "horovod"]
    needed = [*(each for each in learner if each not in horovod), *declared["requires-dist"], *tools]
    # cmake is a wheel whose program lies beside python; setuptools must be one that Horovod's setup.py knows.
    variables = uv["extra-build-variables"]["horovod"]
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ.get('PATH', '')}"
    variables = variables | {"PATH": path}
    return [(needed, {}), (["--no-deps", "--no-build-isolation", *horovod], variables)]


def _compiler() -> str:
    """The compiler for Horovod."""
    if named := os.environ.get("CXX"):
        return named
    version = subprocess.run(["g++", "-dumpversion"], capture_output=True, text=True, check=False).stdout
    return f"g++-{NEWEST_COMPILER}" if int(version.partition(".")[0] or 0) > NEWEST_COMPILER else "g++"


def _installer() -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install"]
    return [shutil.which("uv") or "uv", "pip", "install", "--python", sys.executable]


def _mistake(line: str) -> int:
    print(line, file=sys.stderr)
    return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
