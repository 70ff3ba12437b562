#!/usr/bin/env bash
# Hosts that ssh reaches without a password, such as several with GPUs: one process on each.
#
#   ssh.sh install --hosts=a,b [--platform=cuda13]          this commit, on every host
#   ssh.sh launch  --hosts=a,b [--restarts=] [--port=] -- --config=FILE --workdir=SHARED_DIRECTORY
#   ssh.sh follow  --hosts=a,b --metrics=WORKDIR
#   ssh.sh stop    --hosts=a,b                              on the machine of `launch`: all save, and end
#
# `launch` stays, shows what all processes print, starts all of them again when one is lost, and
# passes SIGTERM and Control-C on. Each takes --dry_run.
. "$(dirname "$0")/steps.sh"

names="hosts platform restarts port metrics"
platform=cuda13 restarts=3 port=8476 hosts='' metrics=''

verb=${1:-}
case $verb in
  install | launch | stop) settings "$names" hosts "${@:2}" ;;
  follow) settings "$names" "hosts metrics" "${@:2}" ;;
  *) die 2 "'$verb' is none of install, launch, follow, stop" ;;
esac
launcher=${TMPDIR:-/tmp}/lm_research-${hosts//[^A-Za-z0-9@.-]/_}.pid
if [ "$verb" = stop ]; then
  need pkill
  $dry_run || [ -e "$launcher" ] || die 1 "nothing was launched from here on $hosts"
  run pkill -TERM -F "$launcher" -f together.py # its number may be another process's by now
  exit
fi
need ssh
if [ "$verb" = follow ]; then
  stream ssh -o BatchMode=yes "${hosts%%,*}" "tail -n 20 -F $(quoted "$metrics/metrics.jsonl")"
  exit
fi
if [ "$verb" = launch ]; then
  trains
  need python3
  more=()
  if $dry_run; then more=(--dry_run); else echo $$ > "$launcher"; fi
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
