# Shared by the scripts: what runs beside each other. Sourced, not run.

# beside <most at once> <folder for logs> <command> <pieces...>: runs the command with the words of each piece as its
# arguments, so many at once; when one has ended its output is shown and the next begins. Status: the greatest of them.
beside() {
  local most=$1 logs=$2 command=$3 worst=0 piece
  local -A pieces=() started=()
  shift 3
  mkdir -p "$logs"
  trap 'beside_interrupted' INT TERM
  for piece in "$@"; do
    [ ${#pieces[@]} -lt "$most" ] || beside_ended
    printf '  %s ...\n' "${piece%% --*}"
    # shellcheck disable=SC2086 # the words of a piece
    $command $piece >"$(beside_log)" 2>&1 </dev/null &
    pieces[$!]=$piece started[$!]=$SECONDS
  done
  while [ ${#pieces[@]} -gt 0 ]; do beside_ended; done
  trap - INT TERM
  return "$worst"
}

beside_log() {  # of `piece`: named as its first word
  local name=${piece%% *}
  echo "$logs/${name//\//-}.log"
}

beside_ended() {  # returns when one or more have ended: `wait -n` forgets those that ended before it was called
  local pid status piece count=${#pieces[@]}
  while :; do
    for pid in "${!pieces[@]}"; do
      kill -0 "$pid" 2>/dev/null && continue
      status=0 piece=${pieces[$pid]}
      wait "$pid" || status=$?
      unset "pieces[$pid]"
      printf '\n  %s: status %d after %d s\n' "${piece%% --*}" "$status" $((SECONDS - ${started[$pid]}))
      cat "$(beside_log)"
      [ "$status" -le "$worst" ] || worst=$status
    done
    [ ${#pieces[@]} -eq "$count" ] || return 0
    sleep 0.2
  done
}

beside_interrupted() {
  local pid
  for pid in "${!pieces[@]}"; do kill -INT "$pid" 2>/dev/null; done  # bash lets jobs in the background ignore Ctrl-C
  for pid in "${!pieces[@]}"; do wait "$pid"; done
  exit 130
}
