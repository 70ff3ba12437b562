#!/usr/bin/env bash
# A job of Slurm: one process for each GPU (or one on each node without), requeued when one is lost.
#
#   slurm.sh submit --name= --nodes= [--gpus=8] [--partition=] [--time=] [--restarts=] [--python=]
#                   -- --config=FILE --workdir=SHARED_DIRECTORY
#   slurm.sh follow --name= [--metrics=WORKDIR]
#   slurm.sh stop   --name=      all processes save, and end
#   slurm.sh delete --name=      at once
#
# Each takes --dry_run, and --yes where it asks first.
. "$(dirname "$0")/steps.sh"

names="name nodes gpus partition time restarts python metrics"
name='' nodes=1 gpus=8 partition='' time='' restarts=100 python=python metrics=''

# job: what sbatch is given. Its step hears of the end two minutes before, and saves.
job() {
  local tasks=1
  if [ "$gpus" -gt 0 ]; then tasks=$gpus; fi
  echo '#!/usr/bin/env bash'
  echo "#SBATCH --job-name=$name --nodes=$nodes --ntasks-per-node=$tasks --requeue --signal=TERM@120"
  echo "#SBATCH --chdir=$(quoted "$PWD") --output=$name.log --open-mode=append"
  if [ "$gpus" -gt 0 ]; then echo "#SBATCH --gpus-per-node=$gpus"; fi
  if [ -n "$partition" ]; then echo "#SBATCH --partition=$partition"; fi
  if [ -n "$time" ]; then echo "#SBATCH --time=$time"; fi
  cat << END
export PYTHONPATH=$(quoted "$root")
srun --kill-on-bad-exit=1 $(quoted "$python" -m lm_research train "${flags[@]}" --coordinator=auto)
status=\$?
if [ "\$status" -ne 0 ] && [ "\$status" -ne 2 ] && [ ! -e $name.stop ] &&
  [ "\${SLURM_RESTART_COUNT:-0}" -lt $restarts ]; then
  scontrol requeue "\$SLURM_JOB_ID"
fi
exit "\$status"
END
}

verb=${1:-}
case $verb in
  submit | follow | stop | delete) settings "$names" name "${@:2}" ;;
  *) die 2 "'$verb' is none of submit, follow, stop, delete" ;;
esac
case $verb in
  submit)
    need sbatch
    trains
    ask "takes $nodes nodes of the cluster"
    file=$name.sbatch
    job | write "$file"
    run rm -f "$name.stop"
    run sbatch "$file"
    ;;
  follow)
    file=$name.log
    if [ -n "$metrics" ]; then file=$metrics/metrics.jsonl; fi
    stream tail -n 20 -F "$file"
    ;;
  stop)
    need scancel
    run touch "$name.stop" # or else it is requeued
    run scancel --name="$name" --signal=TERM
    ;;
  delete)
    need scancel
    ask "ends the job $name at once; its steps since the last save are lost"
    run scancel --name="$name"
    ;;
esac
