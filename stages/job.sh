#!/usr/bin/env bash
#SBATCH --requeue --open-mode=append --output=state/jobs/%x.log --signal=B:USR1@120
# Run one queued experiment as a job; `advebm launch` submits it with the experiment's name:
#
#     advebm launch "sbatch --partition gpu --gres gpu:1 --time 4:00:00 stages/job.sh"
#
# Preempted, SLURM runs it again and it resumes. 120 seconds before the time is over it saves its state and asks for another
# turn. The environment is that of `advebm launch`. Without SLURM it is a script with one argument, for any other scheduler.
set -u
advebm job "$1" &
job=$!
trap 'kill -TERM $job; wait $job; exec scontrol requeue "$SLURM_JOB_ID"' USR1
trap 'kill -TERM $job' TERM
wait $job
code=$?
while kill -0 $job 2> /dev/null; do # a signal ended the first `wait`
    wait $job
    code=$?
done
exit $code
