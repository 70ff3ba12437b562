#!/usr/bin/env bash
# Runs a command on one host of several, again and again while it ends in a way that can go on.
#
#   again.sh RESTARTS COMMAND...
#
# Status 0 and 2 (a user's mistake) end it, and SIGTERM or SIGINT, which are passed on. One that is
# frozen for a minute is killed: its peers, which notice within as much, start anew and wait for it.
# The last status stays in the file run.status.
set -uo pipefail

restarts=$1
shift
told=false
pass() {
  told=true
  kill -s "$1" "$child" 2> /dev/null
  kill -s CONT "$child" 2> /dev/null # one that is frozen hears nothing before
}
# watch PID: kills it when it has been frozen for a minute; until it has ended.
watch() {
  local frozen=0
  while kill -0 "$1"; do
    sleep 10
    case $(< "/proc/$1/status") in *'T (stopped)'*) frozen=$((frozen + 1)) ;; *) frozen=0 ;; esac
    if [ "$frozen" -ge 6 ]; then kill -s KILL "$1"; fi
  done
}
trap 'pass TERM' TERM
trap 'pass INT' INT
for ((count = 0; ; count++)); do
  "$@" &
  child=$!
  watch "$child" > /dev/null 2>&1 &
  while true; do
    wait "$child"
    status=$?
    kill -0 "$child" 2> /dev/null || break # a signal ends the wait, not the child
  done
  if $told || [ "$status" -eq 0 ] || [ "$status" -eq 2 ] || [ "$count" -ge "$restarts" ]; then
    echo "$status" > run.status
    exit "$status"
  fi
  echo "again.sh: ended with status $status; starting again ($((count + 1)) of $restarts)" >&2
  sleep 1
done
