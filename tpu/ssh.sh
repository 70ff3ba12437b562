#!/usr/bin/env bash
# Hosts that ssh reaches without a password, such as several with GPUs: one process on each.
#
#   ssh.sh install --hosts=a,b [--platform=cuda13]          this commit, on every host
#   ssh.sh launch  --hosts=a,b [--restarts=] [--port=] -- --config=FILE --workdir=SHARED_DIRECTORY
#
# `launch` stays, shows what all processes print, starts all of them again when one is lost, and
# passes SIGTERM and Control-C on. Each takes --dry_run.
. "$(dirname "$0")/steps.sh"

names="hosts platform restarts port"
platform=cuda13 restarts=3 port=8476 hosts=''

verb=${1:-}
case $verb in
  install | launch) settings "$names" hosts "${@:2}" ;;
  *) die 2 "'$verb' is none of install, launch" ;;
esac
need ssh
if [ "$verb" = launch ]; then
  trains
  need python3
  more=()
  if $dry_run; then more=(--dry_run); fi
  exec python3 "$here/together.py" --hosts="$hosts" --restarts="$restarts" --port="$port" ${more[@]+"${more[@]}"} -- "${flags[@]}"
fi
need scp
commit=$(committed)
bundle=${TMPDIR:-/tmp}/lm_research-$commit.bundle
run git -C "$root" bundle create -q "$bundle" HEAD
for host in ${hosts//,/ }; do
  run scp -q -o BatchMode=yes "$bundle" "$host:lm_research.bundle"
  run ssh -o BatchMode=yes "$host" "$(setup "$commit" "$platform")"
done
