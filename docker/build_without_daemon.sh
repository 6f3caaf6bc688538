#!/usr/bin/env bash
# Builds the images and trains in them on a machine without a container engine: debootstrap for the base, buildah in a chroot.
#     sudo docker/build_without_daemon.sh [STEP...]        steps: base actor learner actor-test learner-test train sizes; default: all
# Needs root, debootstrap and buildah. All files are in $BUILD (default /var/tmp/mlma-build), which may be removed afterwards.
# The package indexes are those of this machine: pip's configuration files and certificates are mounted during the build, and
# PIP_INDEX_URL is passed on. apt uses $MIRROR, or debootstrap's default mirror.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
BUILD=${BUILD:-/var/tmp/mlma-build}
BASE=localhost/debian:bookworm-slim

fail() {
    echo "build_without_daemon: $*" >&2
    exit 1
}
[[ $EUID == 0 ]] || fail "needs root to create a file system (debootstrap) and enter it (chroot)"
for tool in debootstrap buildah; do
    command -v $tool >/dev/null || fail "needs $tool: apt-get install -y --no-install-recommends debootstrap buildah"
done
mkdir -p "$BUILD"/{tmp,uv}
export TMPDIR=$BUILD/tmp BUILDAH_ISOLATION=chroot
image_tool() { buildah --root "$BUILD/images" --runroot "$BUILD/run" "$@"; }
leave() { # end processes, containers and mounts, so that $BUILD can be removed
    jobs -p | xargs -r kill 2>/dev/null || true
    wait
    image_tool rm --all >/dev/null 2>&1 || true
    umount "$BUILD/images/overlay" 2>/dev/null || true
}
trap leave EXIT

machine=(--network host --volume "$BUILD/uv:/root/.cache/uv") # keeps downloads and builds for the next attempt
for file in /etc/pip.conf /root/.config/pip/pip.conf /root/.pip/pip.conf; do
    if [[ -r $file ]]; then machine+=(--volume "$file:$file:ro"); fi
done
settings=()
if [[ -n ${PIP_INDEX_URL:-} ]]; then settings+=(--build-arg "PIP_INDEX_URL=$PIP_INDEX_URL"); fi
bundle=${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}
if [[ -r $bundle ]]; then # this machine's certificates, at a path that no package writes to
    machine+=(--volume "$bundle:/mnt/certificates.crt:ro")
    settings+=(--build-arg PIP_CERT=/mnt/certificates.crt)
fi

base() { # equivalent of docker.io/library/debian:bookworm-slim: a minimal Debian without documentation
    rm -rf "$BUILD/base"
    mkdir -p "$BUILD/debs"
    debootstrap --variant=minbase --cache-dir="$BUILD/debs" bookworm "$BUILD/base" ${MIRROR:-} >"$BUILD/debootstrap.log" ||
        fail "debootstrap failed; its last line: $(tail -1 "$BUILD/debootstrap.log")"
    rm -rf "$BUILD"/base/var/lib/apt/lists/* "$BUILD"/base/var/cache/apt/*.bin "$BUILD"/base/var/cache/apt/archives/*.deb \
        "$BUILD"/base/usr/share/{doc,man,info,locale}/* "$BUILD"/base/var/log/*.log
    local container
    container=$(image_tool from scratch)
    image_tool add --quiet "$container" "$BUILD/base" / >/dev/null
    image_tool config --cmd bash "$container"
    image_tool commit --quiet --rm "$container" $BASE >/dev/null
    rm -rf "$BUILD/base"
}

build() { # build TARGET
    image_tool bud --quiet --layers --pull-never "${machine[@]}" "${settings[@]}" --build-arg BASE=$BASE \
        --file docker/Dockerfile --target "$1" --tag "mlma-$1" .
}

TOKEN=$(head -c 32 /dev/urandom | sha256sum | cut -d ' ' -f 1) # of this run
inside() { # inside CONTAINER COMMAND...: as the image's user, with the folders of this run mounted
    local container=$1
    shift
    image_tool run --env "MLMA_TOKEN=$TOKEN" --volume "$BUILD/srv:/srv/mlma" --volume "$BUILD/health-$container:/run/mlma" \
        "$container" -- "$@"
}

train() { # 2 learners with 2 actors each, in the images; the corridor's optimum is p(right) = .586
    local learner actors=() i
    rm -rf "$BUILD/srv" && install -d -o 1000 -g 1000 "$BUILD/srv"
    learner=$(image_tool from --pull-never mlma-learner)
    install -d -o 1000 -g 1000 "$BUILD/health-$learner"
    inside "$learner" mpirun -np 2 --oversubscribe --bind-to none python experiment.py --job_name=learner --task=0 --num_learners=2 \
        --learner_host=localhost:8001 --actor_hosts=a,b --level_name=corridor --logdir=/srv/mlma/corridor \
        --total_environment_frames=1e6 --heartbeat_folder=/run/mlma &
    local learners=$!
    for i in 0 1 2 3; do
        actors[i]=$(image_tool from --pull-never mlma-actor)
        install -d -o 1000 -g 1000 "$BUILD/health-${actors[i]}"
        inside "${actors[i]}" python experiment.py --job_name=actor --task=$((i / 2)) --learner_host=localhost:$((8001 + i % 2)) \
            --level_name=corridor --heartbeat_folder=/run/mlma >"$BUILD/actor-$i.log" 2>&1 &
    done
    for i in $(seq 60); do # the health check, run inside the containers
        sleep 5
        inside "$learner" python -m mlma.monitoring.health_check --heartbeat_folder=/run/mlma &&
            inside "${actors[3]}" python -m mlma.monitoring.health_check --heartbeat_folder=/run/mlma && break
        [[ $i != 60 ]] || fail "no progress after 5 minutes"
    done
    wait $learners || fail "the learners ended with code $?"
    wait
    tail -n 1 "$BUILD/actor-3.log"
    inside "$learner" python -c 'import csv
rows = list(csv.DictReader(open("/srv/mlma/corridor/metrics.csv")))
late = [float(row["policy/p_action_1"]) for row in rows[len(rows) * 4 // 5 :]]
print("p(right)", round(sum(late) / len(late), 3), "after", rows[-1]["frames"], "frames")'
    image_tool rm --all >/dev/null
}

sizes() {
    echo "== sizes"
    image_tool images --format '{{.Name}} {{.Size}}' | sort -u
    local container
    container=$(image_tool from --pull-never mlma-actor)
    image_tool run "$container" -- sh -c 'for tool in gcc g++ cc make; do ! command -v $tool || exit 1; done
        ! python -c "import horovod" 2>/dev/null || exit 1
        echo "actor: no compiler, no Horovod; runs as $(id -un)"' || fail "the actor image contains a compiler or Horovod"
    image_tool rm "$container" >/dev/null
}

for step in ${@:-base actor learner actor-test learner-test train sizes}; do
    begun=$SECONDS
    echo "== $step"
    case $step in
    base | train | sizes) $step ;;
    actor | learner | actor-test | learner-test) build "$step" ;;
    *) fail "$step: unknown step; allowed: base actor learner actor-test learner-test train sizes" ;;
    esac
    echo "== $step: $((SECONDS - begun)) s"
done
