#!/usr/bin/env bash
# A Cloud TPU, of one host or many, from its creation to its end.
#
#   tpu_vm.sh create  --name= --zone= --accelerator= [--version=] [--queued=true] [--spot=true]
#   tpu_vm.sh install --name= --zone=           this commit, on every host
#   tpu_vm.sh launch  --name= --zone= [--restarts=] -- --config=FILE --workdir=SHARED_DIRECTORY
#   tpu_vm.sh follow  --name= --zone= [--metrics=WORKDIR]
#   tpu_vm.sh stop    --name= --zone=           all hosts save, and end
#   tpu_vm.sh watch   everything that create and launch take; makes it anew after a preemption, and
#                     ends when the run has
#   tpu_vm.sh delete  --name= --zone=
#
# Each takes --dry_run, and --yes where it asks first; --project= where gcloud has no default.
. "$(dirname "$0")/steps.sh"

names="name zone project accelerator version queued spot restarts metrics every"
name='' zone='' version='' queued=false spot=false restarts=100 metrics='' every=60 project='' accelerator=''
RESUME=75 # see lm_research/errors.py

# on WORKERS COMMAND: by ssh.
on() {
  gcloud_tpu stream ssh "--worker=$1" "--command=$2"
}

# gcloud_tpu HOW VERB MORE...: `gcloud compute tpus tpu-vm` for this one.
gcloud_tpu() {
  "$1" gcloud compute tpus tpu-vm "$2" "$name" "${where[@]}" "${@:3}"
}

queue() {
  "$1" gcloud compute tpus queued-resources "$2" "$name" "${where[@]}" "${@:3}"
}

create() {
  [ -n "$accelerator" ] || die 2 "--accelerator is missing, such as --accelerator=v5p-32"
  local kind=(--accelerator-type="$accelerator")
  if [ -z "$version" ]; then
    case $accelerator in
      v4-*) version=tpu-ubuntu2204-base ;;
      v5p-*) version=v2-alpha-tpuv5 ;;
      v5litepod-*) version=v2-alpha-tpuv5-lite ;;
      v6e-*) version=v2-alpha-tpuv6e ;;
      *) die 2 "--version is missing: the software of $accelerator is not known here" ;;
    esac
  fi
  if $spot; then kind+=(--spot); fi
  if $queued; then
    queue run create --node-id="$name" "${kind[@]}" --runtime-version="$version"
    await
  else
    gcloud_tpu run create "${kind[@]}" --version="$version"
  fi
}

# await: until a queued resource is there.
await() {
  if $dry_run; then
    queue run describe '--format=value(state.state)'
    echo "# every $every s, until it says ACTIVE"
    return
  fi
  local found
  while true; do
    found=$(queue run describe '--format=value(state.state)') || exit 1
    case $found in
      ACTIVE) return ;;
      FAILED | SUSPENDED | SUSPENDING) die 1 "the queued resource $name is $found" ;;
    esac
    sleep "$every"
  done
}

install() {
  run git -C "$root" bundle create -q "$bundle" HEAD
  run gcloud compute tpus tpu-vm scp "$bundle" "$name:lm_research.bundle" "${where[@]}" --worker=all
  on all "$(setup "$commit" tpu)"
}

# Whether again.sh runs on a host, there.
# shellcheck disable=SC2016 # the hosts expand it
runs='grep -qs again.sh "/proc/$(cat run.pid 2> /dev/null)/cmdline"'

launch() {
  local train
  train=$(quoted tpu/again.sh "$restarts" env/bin/python -m lm_research train "${flags[@]}" --coordinator=auto)
  on all "cd lm_research && if $runs; then echo 'a run is here already'; else rm -f run.status run.stop; { nohup $train > run.log 2>&1 < /dev/null & echo \$! > run.pid; }; fi"
}

stop() {
  # shellcheck disable=SC2016 # the hosts expand it
  on all 'cd lm_research && echo stopped > run.stop && kill -s TERM "$(cat run.pid)"'
}

delete() {
  if $queued; then
    queue run delete --force --quiet
  else
    gcloud_tpu run delete --quiet
  fi
}

# answer COMMAND...: what it prints; NONE where there is no such thing, UNKNOWN where it says nothing.
answer() {
  local found said
  said=$(mktemp)
  if found=$("$@" 2> "$said") && [ -n "$found" ]; then
    echo "$found"
  elif [[ $(< "$said") == *NOT_FOUND* ]]; then
    echo NONE
  else
    echo UNKNOWN
    echo "${0##*/}: asked of $name, gcloud says: $(tr -s '[:space:]' ' ' < "$said")" >&2
  fi
  rm "$said"
}

# state: READY, PREEMPTED, ...; before there is a TPU, of its queued resource.
state() {
  local found
  found=$(answer gcloud_tpu command describe '--format=value(state)')
  if [ "$found" = NONE ] && $queued; then
    found=$(answer queue command describe '--format=value(state.state)')
  fi
  echo "$found"
}

# standing: of the run, by host 0: running, lost, or its exit status; nothing where it does not say.
standing() {
  local found ask="cd lm_research 2> /dev/null || { echo lost; exit; }
if [ -e run.status ]; then echo \$(cat run.status run.stop 2> /dev/null)
elif $runs; then echo running; else echo lost; fi"
  found=$(gcloud_tpu command ssh --worker=0 "--command=$ask" 2> /dev/null) || true
  echo "${found##*$'\n'}" # before it, gcloud may tell of its own doings
}

watch() {
  if $dry_run; then
    gcloud_tpu run describe '--format=value(state)'
    echo "# every $every s; when it says PREEMPTED, TERMINATED, STOPPED or the like:"
    delete
    echo "# and then, or when there is none:"
    create
    echo "# when it says READY, and host 0 that nothing runs or that it was told to end, not by stop:"
    install
    launch
    return
  fi
  local found
  while true; do
    # Each in a shell of its own: what fails now may go well the next time.
    case $(state) in
      PREEMPTED | TERMINATED | STOPPED | SUSPENDED | HIDDEN | FAILED) ( (delete) && (create)) || true ;;
      NONE) (create) || true ;;
      READY)
        found=$(standing)
        case $found in
          '' | running) ;;
          lost | "$RESUME") (install && launch) || true ;;
          *) ended "${found%% *}" ;;
        esac
        ;;
    esac
    sleep "$every"
  done
}

# ended STATUS: the end of a watch, with that of the run.
ended() {
  local what="the run has ended with status $1, which is not to be started again"
  if [ "$1" = 0 ]; then what="the run has finished"; fi
  local delete=("tpu/${0##*/}" delete "--name=$name" "${where[@]}")
  if $queued; then delete+=(--queued=true); fi
  echo "$what; the TPU $name is still there and costs money until: $(quoted "${delete[@]}")"
  exit "$1"
}

verb=${1:-}
case $verb in
  create | install | launch | follow | stop | watch | delete) settings "$names" "name zone" "${@:2}" ;;
  *) die 2 "'$verb' is none of create, install, launch, follow, stop, watch, delete" ;;
esac
where=(--zone="$zone")
if [ -n "$project" ]; then where+=(--project="$project"); fi
bundle=${TMPDIR:-/tmp}/lm_research-$name.bundle
need gcloud
case $verb in launch | watch) trains ;; esac
case $verb in install | watch) commit=$(committed) ;; esac
case $verb in
  create) ask "creates the TPU $name ($accelerator in $zone), which costs money until it is deleted" ;;
  watch) ask "deletes the TPU $name after a preemption, and creates it anew, which costs money" ;;
  delete) ask "deletes the TPU $name in $zone, and what is on its disks" ;;
esac
if [ "$verb" = follow ]; then
  file=lm_research/run.log
  if [ -n "$metrics" ]; then file=$metrics/metrics.jsonl; fi
  on 0 "tail -n 20 -F $(quoted "$file")"
else
  $verb
fi
