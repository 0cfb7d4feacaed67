# Sourced. Uses the Docker engine that runs, else starts one, and stops only the one it started.

# dockerd_up DIR: DIR is absolute and at most 60 characters long, since Unix sockets lie below it.
dockerd_up() {
  docker info >/dev/null 2>&1 && return 0 # not ours: never stopped
  command -v dockerd >/dev/null || { echo "no Docker engine answers, and there is no dockerd to start" >&2; return 1; }
  ((${#1} <= 60)) || { echo "$1 is too long a path for dockerd's sockets: set XDG_CACHE_HOME to a shorter one" >&2; return 1; }
  mkdir -p "$1"
  export DOCKER_HOST="unix://$1/docker.sock"
  # One that an earlier run could not stop is stopped with this one. A second in its place would cut both off the network.
  if docker info >/dev/null 2>&1; then
    cp "$1/dockerd.pid" "$1/pid"
    return 0
  fi
  rm -f "$1/exec/containerd/containerd.pid" # of one that was killed: the next would not start
  dockerd --data-root "$1/data" --exec-root "$1/exec" --pidfile "$1/dockerd.pid" -H "unix://$1/docker.sock" \
    --log-level warn >"$1/log" 2>&1 </dev/null 9>&- &
  echo $! >"$1/pid"
  for _ in $(seq 150); do
    docker version >/dev/null 2>&1 && return 0
    kill -0 "$(cat "$1/pid")" 2>/dev/null || break
    sleep 0.2
  done
  echo "dockerd does not start here:" >&2
  tail -5 "$1/log" >&2
  return 1
}

# dockerd_down DIR: and what it mounted, which would keep DIR from being removed.
dockerd_down() {
  local pid
  pid=$(cat "$1/pid" 2>/dev/null) || return 0
  kill -TERM "$pid" 2>/dev/null || true
  for _ in $(seq 150); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.2
  done
  rm -f "$1/pid"
  grep -o " $1/[^ ]*" /proc/mounts | tac | while read -r mount; do umount "$mount"; done || true
}
