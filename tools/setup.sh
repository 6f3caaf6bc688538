#!/usr/bin/env bash
# Installs into .venv what pyproject.toml pins: `tools/setup.sh [learner] [dev] [vizdoom] [dmlab] [mujoco] [box2d] [export] [optuna] [docs] [cuda]`. See docs/install.md.
# Returns in milliseconds if nothing has changed. Installed groups stay, so `make train` removes nothing that `make test` needs;
# so do packages of your own. PYTHON=python3.12 chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

UV_VERSION=0.13.8
STAMP=.venv/installed # fingerprint and groups of the last completed set-up

log() { echo "setup: $*"; }
fail() {
    echo "setup: $*" >&2
    exit 1
}

groups=""
fingerprint=$(cat pyproject.toml tools/setup.sh | sha256sum | cut -d ' ' -f 1)

read_stamp() { # sets `stamped`, `groups`
    stamped="" groups=""
    if [[ -r $STAMP ]]; then read -r stamped groups <$STAMP || true; fi
}

full_version() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null; }

up_to_date() { # up_to_date GROUP...
    local group
    read_stamp
    [[ $stamped == "$fingerprint" ]] && [[ -x .venv/bin/python ]] || return 1 # if the base Python was removed, the link is dead
    [[ -z ${PYTHON:-} || $(full_version "$PYTHON") == "$(full_version .venv/bin/python)" ]] || return 1
    for group in "$@"; do
        [[ " $groups " == *" $group "* ]] || return 1
    done
}

need_apt() { # need_apt PACKAGES "what is missing and why": installs as root, otherwise prints the command
    if [[ $EUID == 0 ]] && command -v apt-get >/dev/null; then
        log "$2: running apt-get install -y $1"
        # shellcheck disable=SC2086  # several packages are several words
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $1; } >/dev/null ||
            fail "apt-get install $1 did not work"
    else
        fail "$2: run \`sudo apt-get install -y $1\`, then try again"
    fi
}

find_python() { # sets `python` to the interpreter itself, not a venv's link to it; prefers the one .venv already uses
    local oldest newest candidate minor version others="" all=(.venv/bin/python python3)
    read -r oldest newest <<<"$(sed -n 's/^requires-python = ">=3\.\([0-9]*\),<3\.\([0-9]*\)".*/\1 \2/p' pyproject.toml)"
    newest=$((newest - 1))
    for ((minor = newest; minor >= oldest; minor--)); do all+=("python3.$minor" "/usr/bin/python3.$minor"); done
    if [[ -n ${PYTHON:-} ]]; then all=("$PYTHON"); fi
    for candidate in "${all[@]}"; do
        version=$(full_version "$candidate") || continue
        minor=$(cut -d . -f 2 <<<"$version")
        if [[ $version == 3.* ]] && ((minor >= oldest && minor <= newest)); then
            python=$("$candidate" -c 'import sys; print(sys._base_executable)')
            return
        fi
        others=${others:-"$candidate is $version, too $([[ $version == 3.* ]] && ((minor > newest)) && echo new || echo old)"}
    done
    fail "needs Python 3.$oldest to 3.$newest; ${others:-found no ${PYTHON:-python3}}: install python3.$newest, or name another with PYTHON=/path/to/python"
}

make_uv() { # a venv with only the installer uv, in the tested version
    [[ $(.tools/uv/bin/uv --version 2>/dev/null) == "uv $UV_VERSION"* ]] && return
    "$python" -c 'import ensurepip, venv; ensurepip.version()' 2>/dev/null ||
        need_apt "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" "$python cannot make a virtual environment (Debian and Ubuntu keep that in a package of its own)"
    rm -rf .tools/uv
    "$python" -m venv .tools/uv || fail "$python -m venv did not work"
    PIP_USER=0 .tools/uv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION" ||
        fail "pip could not install uv $UV_VERSION; its message is above"
}

choose_compiler() { # exports CXX where g++ is newer than the newest that compiles Horovod, whose flatbuffers g++ 14 refuses
    local newest=13
    if [[ -n ${CXX:-} ]] || (($(g++ -dumpversion | cut -d . -f 1) <= newest)); then return; fi
    command -v "g++-$newest" >/dev/null ||
        need_apt "g++-$newest" "Horovod, for several learners, does not compile with g++ $(g++ -dumpversion)"
    export CXX=g++-$newest
}

pip_setting() { # pip_setting NAME: its value in pip's configuration files
    .tools/uv/bin/python -m pip config get "global.$1" 2>/dev/null || .tools/uv/bin/python -m pip config get "install.$1" 2>/dev/null || true
}

export_uv_settings() {
    unset VIRTUAL_ENV
    export UV_COMPILE_BYTECODE=true # importing TensorFlow takes 3.6 s of CPU instead of 8.2, also where .venv is read-only
    export UV_PROJECT_ENVIRONMENT=.venv UV_PYTHON=$python UV_PYTHON_DOWNLOADS=never UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-120}
    # uv ignores pip's configuration: pass on a mirror or certificates that pip uses on this machine.
    if [[ -z ${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-} ]]; then
        local index=${PIP_INDEX_URL:-$(pip_setting index-url)}
        if [[ -n $index ]]; then export UV_DEFAULT_INDEX=$index; fi
    fi
    local certificates=${PIP_CERT:-$(pip_setting cert)}
    if [[ -n $certificates && -z ${SSL_CERT_FILE:-} ]]; then export SSL_CERT_FILE=$certificates; fi
    export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-true}
}

use_cuda() { # replaces TensorFlow for CPUs with the same version for GPUs; CUDA comes as wheels
    local version
    version=$(sed -n 's/^ *"tensorflow-cpu==\([0-9.]*\)[;"].*/\1/p' pyproject.toml)
    .tools/uv/bin/uv pip uninstall --quiet --python .venv/bin/python tensorflow-cpu tensorflow && # they share files
        .tools/uv/bin/uv pip install --quiet --python .venv/bin/python "tensorflow[and-cuda]==$version"
}

main() {
    local group
    for group in "$@"; do
        [[ " learner dev vizdoom dmlab mujoco box2d export optuna docs cuda " == *" $group "* ]] ||
            fail "$group: no such group; the groups are learner, dev, vizdoom, dmlab, mujoco, box2d, export, optuna, docs, cuda"
    done
    up_to_date "$@" && return
    [[ $(uname -sm) =~ ^Linux\ (x86_64|aarch64)$ ]] || fail "needs Linux on x86-64 or aarch64, this is $(uname -sm)"

    mkdir -p .tools
    exec 9>.tools/lock
    if ! flock --nonblock 9; then
        log "waiting for another set-up in this folder"
        flock 9
        up_to_date "$@" && return
    fi

    find_python
    local wanted
    wanted=$(printf '%s\n' $groups "$@" | sort -u | xargs) # installed groups stay
    [[ $(uname -m) != aarch64 || " $wanted " != *" learner "* ]] ||
        fail "several learners need Horovod, which has not been built on aarch64; \`make train\` with one learner works without"
    if [[ " $wanted " == *" learner "* ]]; then
        command -v g++ >/dev/null && command -v make >/dev/null ||
            need_apt "g++ make" "no C++ compiler or no make (Horovod, for several learners, is compiled; \`make train\` needs neither)"
        choose_compiler
    fi
    local what="base${wanted:+, ${wanted// /, }}" size="60 packages, 1 to 3 minutes"
    [[ " $wanted " == *" learner "* ]] && size="85 packages, one of them compiled, 3 to 6 minutes"
    if [[ -n $stamped && -x .venv/bin/python ]]; then
        log "updating .venv ($what)"
    else
        log "setting up .venv ($what) with $("$python" --version): about $size the first time"
    fi

    SECONDS=0
    make_uv
    export_uv_settings
    local arguments=(sync --inexact) # keeps what the user has added
    for group in $wanted; do
        if [[ $group != cuda ]]; then arguments+=(--group "$group"); fi
    done
    if [[ -e $STAMP ]]; then echo "unfinished $groups" >$STAMP; fi # not $wanted: one that fails must not stop the others for good
    .tools/uv/bin/uv "${arguments[@]}" || fail "uv could not install the packages; its message is above, docs/install.md has a table of causes"
    if [[ " $wanted " == *" cuda "* ]]; then use_cuda || fail "uv could not install TensorFlow for GPUs; its message is above"; fi
    echo "$fingerprint $wanted" >$STAMP
    log "done in $SECONDS s"
}

main "$@"
