# Shared by the scripts: steps that show that they are alive, and the C++ build. Sourced, not run.

# step <title> <command...>: runs the command with its output in a log; shows its title at once, the seconds while it
# runs, and the end of the log when it fails.
step() {
  local title=$1 log status=0 started=$SECONDS
  shift
  mkdir -p build/logs
  log=build/logs/$(echo "$title" | tr -c 'a-zA-Z0-9\n' '-' | cut -c1-40).log
  "$@" >"$log" 2>&1 </dev/null &
  local pid=$! shown=0
  [ -t 1 ] || printf '  %s ...\n' "$title"
  while kill -0 "$pid" 2>/dev/null; do
    if [ -t 1 ]; then
      printf '\r  %s ... %d s' "$title" $((SECONDS - started))
    elif [ $((SECONDS - started)) -ge $((shown + 20)) ]; then
      shown=$((SECONDS - started))
      printf '  %s ... %d s\n' "$title" "$shown"
    fi
    sleep 0.2
  done
  wait "$pid" || status=$?
  if [ "$status" -ne 0 ]; then
    printf '\n  %s: FAILED after %d s. The end of %s:\n' "$title" $((SECONDS - started)) "$log" >&2
    tail -n 40 "$log" >&2
    return "$status"
  fi
  [ -t 1 ] && printf '\r'
  printf '  %s: done in %d s\n' "$title" $((SECONDS - started))
}

# newer_than <stamp> <paths...>: true when the stamp is missing or something below the paths is newer.
newer_than() {
  local stamp=$1
  shift
  [ ! -e "$stamp" ] || [ -n "$(find "$@" -newer "$stamp" -print -quit)" ]
}

# build_cpp <build folder> [cmake options...]: configures and builds.
build_cpp() {
  local folder=$1
  shift
  if [ -e "$folder/.built" ] && ! newer_than "$folder/.built" CMakeLists.txt cpp_ext proto; then return; fi
  mkdir -p "$folder"
  touch "$folder/.building"  # what changes while it builds is newer than this, and built the next time
  step "configuring $folder" cmake -S . -B "$folder" -G Ninja -DPython3_EXECUTABLE="$PWD/.venv/bin/python" "$@"
  step "building the C++ part in $folder" cmake --build "$folder"
  mv "$folder/.building" "$folder/.built"
}
