#!/bin/bash
# One task of sandbox/slurm/train.sbatch: builds its command line from its number and the learners' hosts.
#     worker.sh learner|actor FLAG...
set -eu
read -ra hosts <<<"$MLMA_LEARNER_HOSTS"
read -ra python <<<"$MLMA_PYTHON" # may be several words, such as: apptainer exec mlma.sif /opt/mlma/.venv/bin/python
on_each=$((MLMA_LEARNERS / ${#hosts[@]}))
role=$1
shift
if [[ $role == learner ]]; then
    rank=$OMPI_COMM_WORLD_RANK
    host=${hosts[rank / on_each]}
    if [[ $host != "$SLURMD_NODENAME" ]]; then
        echo "worker.sh: learner $rank is on $SLURMD_NODENAME; its actors expect it on $host" >&2
        exit 2
    fi
    export MLMA_ADDRESS=$host # the address at which the other learners reach this one
    mine=$(((MLMA_ACTORS - rank + MLMA_LEARNERS - 1) / MLMA_LEARNERS))
    actors=$(seq -s , "$mine") # only their number matters
    set -- "$@" --task="$rank" --num_learners="$MLMA_LEARNERS" --learner_host="$host:$MLMA_PORT" --actor_hosts="$actors"
else # actors are assigned to learners in turn
    rank=$((SLURM_PROCID % MLMA_LEARNERS))
    set -- "$@" --task=$((SLURM_PROCID / MLMA_LEARNERS)) --learner_host="${hosts[rank / on_each]}:$((MLMA_PORT + rank % on_each))"
fi
exec "${python[@]}" experiment.py "$@" --job_name="$role"
