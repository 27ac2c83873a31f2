# shellcheck shell=bash
# Numbered steps for a script: each is announced, can be printed instead of run, and says what to do when it
# fails.
#
# Use: `source` this file after `set -euo pipefail`, then
#
#   dry_run=true                print the steps and do nothing
#   step WHAT HINT COMMAND...   run one step; when COMMAND fails, the script ends
#   skip WHAT WHY               a step that does not apply here
#   value OPTION VALUE          print the value of an option; without one, end
#   wrong ARGUMENT              end with "unknown argument"
#   done_with WORDS             print the last line

dry_run=false
steps=0

step() {
    local what=$1 hint=$2 status=0
    shift 2
    steps=$((steps + 1))
    printf '%2d. %s\n' "$steps" "$what"
    if $dry_run; then
        declare -F "$1" >/dev/null || shown "$@" # a function of the script is described by WHAT alone
        return
    fi
    if ! command -v "$1" >/dev/null; then
        stop "$what" "there is no $1 on this machine" "$hint"
    fi
    "$@" || status=$?
    ((status == 0)) || stop "$what" "status $status of $(shown "$@" | sed 's/^ *//')" "$hint"
}

skip() {
    steps=$((steps + 1))
    printf '%2d. %s: skipped, %s\n' "$steps" "$1" "$2"
}

# stop WHAT WHY HINT
stop() {
    {
        printf '\nstopped at step %d: %s\n' "$steps" "$1"
        printf '  why:  %s\n' "$2"
        printf '  hint: %s\n' "${3//$'\n'/$'\n'        }"
    } >&2
    exit 1
}

# Print a command as it would be typed.
shown() {
    local word line=
    for word; do
        [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word=\'${word//\'/\'\\\'\'}\'
        line+=" $word"
    done
    printf '     %s\n' "$line"
}

value() {
    [[ -n ${2-} ]] || { printf '%s needs a value, see --help\n' "$1" >&2 && exit 2; }
    printf '%s\n' "$2"
}

wrong() {
    printf "unknown argument '%s', see --help\n" "$1" >&2
    exit 2
}

done_with() {
    if $dry_run; then
        printf 'nothing was done: these would be the %d steps\n' "$steps"
    else
        printf 'done: %s\n' "$1"
    fi
}
