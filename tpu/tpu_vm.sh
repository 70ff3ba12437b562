#!/usr/bin/env bash
# A Cloud TPU, of one host or many, from its creation to its end.
#
#   tpu_vm.sh create  --name= --zone= --accelerator= [--version=] [--queued=true] [--spot=true]
#   tpu_vm.sh install --name= --zone=           this commit, on every host
#   tpu_vm.sh launch  --name= --zone= [--restarts=] -- --config=FILE --workdir=SHARED_DIRECTORY
#   tpu_vm.sh follow  --name= --zone= [--metrics=WORKDIR]
#   tpu_vm.sh stop    --name= --zone=           all hosts save, and end
#   tpu_vm.sh watch   everything that create and launch take; makes it anew after a preemption
#   tpu_vm.sh delete  --name= --zone=
#
# Each takes --dry_run, and --yes where it asks first; --project= where gcloud has no default.
. "$(dirname "$0")/steps.sh"

names="name zone project accelerator version queued spot restarts metrics every"
name='' zone='' version='' queued=false spot=false restarts=100 metrics='' every=60 project='' accelerator=''

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

launch() {
  local train
  train=$(quoted tpu/again.sh "$restarts" env/bin/python -m lm_research train "${flags[@]}" --coordinator=auto)
  on all "cd lm_research && { nohup $train > run.log 2>&1 < /dev/null & echo \$! > run.pid; }"
}

stop() {
  # shellcheck disable=SC2016 # the hosts expand it
  on all 'kill -s TERM "$(cat lm_research/run.pid)"'
}

delete() {
  if $queued; then
    queue run delete --force --quiet
  else
    gcloud_tpu run delete --quiet
  fi
}

# state: READY, PREEMPTED, ... or nothing where there is none.
state() {
  gcloud compute tpus tpu-vm describe "$name" "${where[@]}" '--format=value(state)' 2> /dev/null || true
}

watch() {
  if $dry_run; then
    gcloud_tpu run describe '--format=value(state)'
    echo "# every $every s; when it does not say READY:"
    delete
    create
    install
    launch
    return
  fi
  local up=true # what is there when this begins has been launched
  while true; do
    if [ "$(state)" != READY ]; then
      up=false
      # Each in a shell of its own: what fails now may go well the next time.
      (delete) || true
    fi
    if ! $up && ([ "$(state)" = READY ] || create) && (install && launch); then up=true; fi
    sleep "$every"
  done
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
