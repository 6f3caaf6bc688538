"""`mlma completion bash` and `mlma completion zsh`: what completes commands, flags and their values on Tab.

The script is made from the tables that parse the flags, so it knows what this version knows, and asks nothing later.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from mlma.cluster.options import COMMANDS, Options
from mlma.command.main import BENCHMARKS, INSTALLS, SUBCOMMANDS
from mlma.core.config import flag_table
from mlma.core.config.flags import Flag
from mlma.core.config.flags import flag_table as flags_of
from mlma.studies.cli import COMMANDS as STUDY_COMMANDS
from mlma.studies.definition import frontend_table
from mlma.studies.options import StudyOptions
from mlma.utils.child_process import EXIT_USAGE
from mlma.utils.console_streams import print_text

USAGE = """usage: mlma completion bash | zsh

Once, and after each update:
  mkdir -p ~/.local/share/bash-completion/completions
  mlma completion bash > ~/.local/share/bash-completion/completions/mlma
or, for zsh, into a folder that is in its fpath:
  mlma completion zsh > ~/.zfunc/_mlma"""
SHELLS = ("bash", "zsh")
FOLDERS = ("logdir",)  # flags that name one; other values that cannot be listed are taken for files
PLOT_FLAGS = ("out", "title", "labels", "column", "goal", "level", "no-published", "report")

# $1: words of bash; what is completed is one word such as --algorithm=ap, although bash splits it at the =.
BASH = """_mlma() {{
    local line=${{COMP_LINE:0:COMP_POINT}} words word candidates="" prefix=""
    read -ra words <<<"$line"
    [[ $line == *" " ]] && words+=("")
    word=${{words[${{#words[@]}}-1]}}
    COMPREPLY=()
    if [[ $word == --*=* ]]; then prefix=${{word%%=*}}= word=${{word#*=}}; fi
    if ((${{#words[@]}} == 2)); then
        candidates="{subcommands}"
    elif [[ -n $prefix ]]; then
        case $prefix in
{values}
        --{{{folders}}}=) COMPREPLY=($(compgen -d -S / -- "$word")); compopt -o nospace; return ;;
        *) COMPREPLY=($(compgen -f -- "$word")); return ;;
        esac
    elif [[ $word == -* ]]; then
        case ${{words[1]}} in
{flags}
        esac
        [[ $candidates == *=* ]] && compopt -o nospace
    else
        case ${{words[1]}} in
{operands}
        *) COMPREPLY=($(compgen -f -- "$word")); return ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$candidates" -- "$word"))
}}
complete -F _mlma mlma
"""
ZSH = """#compdef mlma
_mlma() {{
    local word=$PREFIX
    local -a candidates
    if ((CURRENT == 2)); then
        candidates=({subcommands})
        compadd -a candidates
    elif [[ $word == --*=* ]]; then
        compset -P '*='
        case ${{word%%=*}}= in
{values}
        *) _files; return ;;
        esac
        compadd -a candidates
    elif [[ $word == -* ]]; then
        case $words[2] in
{flags}
        esac
        compadd -S '' -a candidates
    else
        case $words[2] in
{operands}
        *) _files; return ;;
        esac
        compadd -a candidates
    fi
}}
# As a file of fpath, this text is the function's body at its first call, which must complete, too.
if [[ $funcstack[1] == _mlma ]]; then _mlma "$@"; else compdef _mlma mlma; fi
"""


def main(argv: list[str]) -> int:
    """Prints the script for a shell; the exit code."""
    if argv in (["-h"], ["--help"]):
        return print_text(USAGE)
    if len(argv) != 1 or argv[0] not in SHELLS:
        print(f"mlma completion {' '.join(argv)}: must name one shell; allowed: {', '.join(SHELLS)}", file=sys.stderr)
        return EXIT_USAGE
    return print_text(script(argv[0]))


def script(shell: str) -> str:
    """The completion script."""
    assign = 'candidates="{}"' if shell == "bash" else "candidates=({})"

    def case(table: Mapping[str, str]) -> str:
        return "\n".join(f"        {pattern}) {assign.format(words)} ;;" for pattern, words in table.items())

    values = {f"--{name}=": " ".join(words) for name, words in values_of_flags().items()}
    return (
        (BASH if shell == "bash" else ZSH)
        .format(
            subcommands=" ".join(SUBCOMMANDS),
            values=case(values),
            flags=case({name: " ".join(words) for name, words in flags_of_subcommands().items()}),
            operands=case({name: " ".join(words) for name, words in operands_of_subcommands().items()}),
            folders=",".join(FOLDERS),
        )
        .rstrip()
    )


def flags_of_subcommands() -> dict[str, list[str]]:
    """Subcommand -> its flags as they are typed, with a = where a value follows."""
    training = [_typed(flag) for flag in flag_table().values()] + ["--config=", "--help"]
    plot = [f"--{name}" if name in ("no-published", "report") else f"--{name}=" for name in PLOT_FLAGS] + ["--help"]
    frontend = [_typed(flag) for flag in flags_of(Options).values()]
    study = [_typed(flag) for flag in (*flags_of(StudyOptions).values(), *frontend_table().values())] + training
    flags = {
        "study": study,
        "train": training,
        "evaluate": training,
        "cluster": frontend + training,
        "plot": plot,
        "report": plot,
    }
    return {name: flags.get(name, ["--help"]) for name in SUBCOMMANDS}


def _typed(flag: Flag) -> str:
    return f"--{flag.name}" if flag.type is bool else f"--{flag.name}="


def values_of_flags() -> dict[str, list[str]]:
    """Flag -> its values, where they can be listed."""
    from mlma.envs.registry import LEVEL_SETS, SUITES

    table = flags_of(Options) | flags_of(StudyOptions) | flag_table()
    values = {name: list(flag.choices) for name, flag in table.items() if flag.choices}
    values |= {name: ["true", "false"] for name, flag in table.items() if flag.type is bool}
    levels = [name for suite in SUITES.values() for name in suite.level_names()]
    return values | {"level_name": [*LEVEL_SETS, *levels, "help"], "help": ["all"]}


def operands_of_subcommands() -> dict[str, list[str]]:
    """Subcommand -> words that may follow, where they are not files."""
    return {
        "cluster": list(COMMANDS),
        "bench": list(BENCHMARKS),
        "study": list(STUDY_COMMANDS),
        "completion": list(SHELLS),
        "|".join(("train", "presets", "levels", *INSTALLS)): [],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
