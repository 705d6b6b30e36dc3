#!/usr/bin/env bash
# Train on a Slurm cluster. GPUS, GPUS_PER_NODE, CPUS_PER_TASK and SRUN_ARGS come from the environment.
#
# STOP_SECONDS (default 120) before its time is over the training gets SIGUSR1: it finishes the step, writes a checkpoint
# and ends with status 75, after which the same command with --resume goes on.
# REQUEUE=1 submits a batch job instead (SBATCH_ARGS, for example --time=08:00:00), which queues itself again as long as
# that is so, and when it is preempted; it always resumes.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG [arguments of train.py]" >&2
    exit 2
fi
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
GPUS=${GPUS:-4}
GPUS_PER_NODE=${GPUS_PER_NODE:-4}
RESOURCES=(--gres="gpu:$GPUS_PER_NODE" --ntasks="$GPUS" --ntasks-per-node="$GPUS_PER_NODE"
    --cpus-per-task="${CPUS_PER_TASK:-5}" --signal="USR1@${STOP_SECONDS:-120}")
TRAIN=("$PYTHON" -u "$ROOT/tools/train.py" "$3" --launcher slurm "${@:4}")
if [ -z "${REQUEUE:-}" ]; then
    # shellcheck disable=SC2086  # SRUN_ARGS holds several arguments
    exec srun -p "$1" --job-name="$2" "${RESOURCES[@]}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} "${TRAIN[@]}"
fi
case " ${*:4} " in *" --resume"*) ;; *) TRAIN+=(--resume) ;; esac
# --cpus-per-task of the job is not that of its steps since Slurm 22.05.
# shellcheck disable=SC2086  # SBATCH_ARGS holds several arguments
exec sbatch -p "$1" --job-name="$2" "${RESOURCES[@]}" --requeue --open-mode=append ${SBATCH_ARGS:-} <<EOF
#!/usr/bin/env bash
export PYTHONPATH=$(printf %q "$PYTHONPATH")
status=0
srun --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-}$(printf ' %q' "${TRAIN[@]}") || status=\$?
[ "\$status" != 75 ] || scontrol requeue "\$SLURM_JOB_ID"
exit "\$status"
EOF
