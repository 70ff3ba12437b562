# shellcheck shell=bash
# What all launchers do alike; they source it. Their settings are globals, as is usual in bash.

set -euo pipefail

dry_run=false yes=false
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")

# die STATUS WORDS...: one line, and the end.
die() {
  printf '%s: %s\n' "${0##*/}" "${*:2}" >&2
  exit "$1"
}

# need COMMAND...: all of them are installed, or nothing is done.
need() {
  $dry_run && return
  for command in "$@"; do
    command -v "$command" > /dev/null || die 2 "$command is not installed (or not on PATH)"
  done
}

# ask WHAT: before anything is deleted or costs money.
ask() {
  if $dry_run || $yes; then return; fi
  [ -t 0 ] || die 2 "this $1; say so with --yes, or at a terminal"
  read -r -p "This $1. Go on? [y/N] " answer
  case $answer in [yY]*) ;; *) die 1 "nothing was done" ;; esac
}

# quoted WORDS...: as a shell would read them back.
quoted() {
  local word line=
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    line+=" $word"
  done
  printf '%s' "${line:1}"
}

# run COMMAND...: or show it; what it says of a failure (a quota, a permission) becomes one line.
run() {
  if $dry_run; then
    quoted "$@"
    echo
    return
  fi
  local said line status=0
  said=$(mktemp)
  "$@" 2> "$said" || status=$?
  if [ "$status" -ne 0 ]; then
    line=$(tr -s '[:space:]' ' ' < "$said")
    rm "$said"
    die 1 "$1 failed with status $status: ${line:-it said nothing}"
  fi
  cat "$said" >&2
  rm "$said"
}

# stream COMMAND...: run, with its errors as they come.
stream() {
  if $dry_run; then run "$@"; else "$@"; fi
}

# write FILE: standard input becomes the file, or is shown.
write() {
  if $dry_run; then
    echo "# $1:"
    cat
  else
    mkdir -p "$(dirname "$1")"
    cat > "$1"
  fi
}

# settings NAMES NEEDED ARGUMENTS...: sets what stands in --name=value, and the array `flags` to
# what follows --.
settings() {
  local known=$1 needed=$2 key
  shift 2
  flags=()
  while [ $# -gt 0 ]; do
    case $1 in
      --) flags=("${@:2}"); break ;;
      --dry_run) dry_run=true ;;
      --yes) yes=true ;;
      --*=*)
        key=${1%%=*}
        key=${key#--}
        [[ " $known " == *" $key "* ]] || die 2 "there is no --$key; it takes $(options "$known")"
        printf -v "$key" '%s' "${1#*=}"
        ;;
      *) die 2 "'$1' is not --name=value; it takes $(options "$known")" ;;
    esac
    shift
  done
  for key in $needed; do
    [ -n "${!key:-}" ] || die 2 "--$key is missing; it takes $(options "$known")"
  done
}

options() {
  local name
  for name in $1; do printf -- '--%s= ' "$name"; done
  printf -- '--dry_run --yes'
}

# trains: `flags` are those of a run.
trains() {
  [[ " ${flags[*]-}" == *" --config="* && " ${flags[*]-}" == *" --workdir="* ]] ||
    die 2 "the flags of the run are missing: -- --config=FILE --workdir=SHARED_DIRECTORY"
}

# committed: the commit that is to run on the hosts, which is all that is here.
committed() {
  need git
  git -C "$root" rev-parse --verify --quiet HEAD || die 2 "$root is no git repository"
  if ! $dry_run && [ -n "$(git -C "$root" status --porcelain --untracked-files=no)" ]; then
    die 2 "$root has changes that are in no commit; commit them"
  fi
}

# setup COMMIT PLATFORM: what a host runs to have this commit, from a bundle in its home.
setup() {
  cat << END
set -e
[ -d lm_research/.git ] || git init -q lm_research
git -C lm_research fetch -q ../lm_research.bundle HEAD
git -C lm_research checkout -q --force $1
python3 -m pip install -q --user uv || python3 -m pip install -q --user --break-system-packages uv
[ -d lm_research/env ] || python3 -m uv venv -q --python=3.12 lm_research/env
python3 -m uv pip install -q --python=lm_research/env -e ./lm_research 'jax[$2]'
END
}
