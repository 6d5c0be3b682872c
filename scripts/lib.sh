# shellcheck shell=bash
# Private services for tests and demonstrations. Sourced by scripts/*; needs bash, nothing else.
#
# A service is a process this file started. Its pid (with the process's start time, so that a reused
# number is never taken for it) stands in $SERVICES/NAME.pid, its output in $SERVICES/NAME.log, its
# files in $SERVICES/NAME/. Only recorded processes are ever signalled; a system Redis, PostgreSQL or
# nginx is neither used nor touched. Everything listens on loopback alone.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf "%s\n" "$@" >&2; }
die() { say "error: $*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# ---- programs -------------------------------------------------------------------------------------

# The directory with initdb and postgres: Debian keeps it off the PATH.
find_pg_bin() {
  local dir
  for dir in "${SYNCLINE_TEST_PG_BIN:-}" \
    $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -t/ -k5 -rn) \
    "$(pg_config --bindir 2>/dev/null || true)" \
    /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin; do
    if [[ -n $dir && -x $dir/initdb && -x $dir/postgres ]]; then
      echo "$dir"
      return
    fi
  done
  return 1
}

# Debian keeps nginx in /usr/sbin, which is not on everyone's PATH.
find_program() { PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v "$1"; }

# The browser of the demo page's tests, under the names it goes by.
find_chromium() {
  local name
  for name in "${SYNCLINE_TEST_CHROMIUM:-}" chromium chromium-browser google-chrome; do
    if [[ -n $name ]] && command -v "$name"; then return; fi
  done
  return 1
}

# PostgreSQL refuses to run as root: root runs it as the user the package made. (`env` changes nothing.)
AS_POSTGRES=(env)
if [[ $(id -u) -eq 0 ]]; then AS_POSTGRES=(setpriv --reuid=postgres --regid=postgres --clear-groups --); fi

# Installs Debian packages without starting the services they bring.
apt_install() {
  local policy=/usr/sbin/policy-rc.d made='' status=0 package
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && made=1
  fi
  apt-get update -qq >&2 || true
  # One by one: a package this release does not know must not keep the others away.
  for package in "$@"; do
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >&2 || status=1
  done
  [[ -z $made ]] || rm -f "$policy"
  return "$status"
}

# ---- ports and waiting ----------------------------------------------------------------------------

# A loopback port nobody listens on and nobody else was given. Below the range the kernel hands out.
free_port() {
  local port
  mkdir -p "$SERVICES/ports"
  for _ in {1..200}; do
    port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && continue
    mkdir "$SERVICES/ports/$port" 2>/dev/null || continue
    echo "$port"
    return
  done
  die "no free port between 20000 and 32000"
}

# wait_for SECONDS WHAT COMMAND…: until the command succeeds.
wait_for() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || { say "error: waited in vain for $what"; return 1; }
    sleep 0.1
  done
}

# ---- processes ------------------------------------------------------------------------------------

# When a process started: with its number, its identity.
started_at() {
  if [[ -r /proc/$1/stat ]]; then
    local stat
    stat=$(<"/proc/$1/stat")
    # The name in parentheses may hold spaces; the start time is field 22, the 20th after it.
    read -ra stat <<<"${stat##*) }"
    echo "${stat[19]}"
  else
    ps -o lstart= -p "$1" 2>/dev/null
  fi
}

# start_service NAME COMMAND…: in the background, in its own session, out of reach of Ctrl-C.
start_service() {
  local name=$1 detach=nohup
  shift
  if have setsid; then detach=setsid; fi
  "$detach" "$@" </dev/null >>"$SERVICES/$name.log" 2>&1 &
  local pid=$!
  disown "$pid"
  printf '%s\n%s\n' "$pid" "$(started_at "$pid")" >"$SERVICES/$name.pid"
}

# The pid of a service, if it runs and is still the process that was started.
service_pid() {
  local pid='' start=''
  [[ -r $SERVICES/$1.pid ]] || return 1
  { read -r pid && read -r start; } <"$SERVICES/$1.pid" || true
  [[ -n $pid && -n $start && $(started_at "$pid" || true) == "$start" ]] || return 1
  [[ $(ps -o stat= -p "$pid") != Z* ]] || return 1
  echo "$pid"
}

is_running() { service_pid "$1" >/dev/null; }
is_stopped() { ! service_pid "$1" >/dev/null; }

# await NAME WHAT COMMAND…: until the command succeeds; if the service dies or never gets there, its log tells.
await() {
  local name=$1 what=$2
  shift 2
  if wait_for 30 "$what" ready_or_dead "$name" "$@" && is_running "$name" && "$@" >/dev/null 2>&1; then return; fi
  say "--- $name did not start; the end of $SERVICES/$name.log:"
  tail -n 20 "$SERVICES/$name.log" >&2 || true
  return 1
}

ready_or_dead() { "${@:2}" || is_stopped "$1"; }

# stop_services NAME…: asks all, then waits for each; what does not go within 40 s is killed.
stop_services() {
  local name pid
  for name in "$@"; do
    pid=$(service_pid "$name") || continue
    # PostgreSQL's "fast" shutdown is SIGINT; SIGTERM would wait for every client.
    if [[ $name == postgres ]]; then kill -INT "$pid"; else kill -TERM "$pid"; fi
  done 2>/dev/null
  for name in "$@"; do
    if ! wait_for 40 "$name to stop" is_stopped "$name"; then
      if pid=$(service_pid "$name"); then kill -KILL "$pid" || true; fi
    fi
    rm -f "$SERVICES/$name.pid"
  done
}

stop_all_services() {
  local file names=()
  for file in "$SERVICES"/*.pid; do
    [[ ! -e $file ]] || names+=("$(basename "$file" .pid)")
  done
  stop_services ${names[@]+"${names[@]}"}
  if [[ -r $SERVICES/postgres.home ]]; then rm -rf "$(<"$SERVICES/postgres.home")"; fi
}

# For short-lived use: a temporary home for services, all stopped and removed when the shell ends.
use_temporary_services() {
  SERVICES=$(mktemp -d "${TMPDIR:-/tmp}/syncline.XXXXXX")
  chmod 755 "$SERVICES"
  trap 'stop_all_services; rm -rf "$SERVICES"' EXIT
  trap 'exit 130' INT TERM
}

# ---- Redis ----------------------------------------------------------------------------------------

# redis_up NAME PORT [OPTION…]: nothing is written to disk.
redis_up() {
  local name=$1 port=$2
  shift 2
  mkdir -p "$SERVICES/$name"
  start_service "$name" redis-server --bind 127.0.0.1 --port "$port" --dir "$SERVICES/$name" \
    --save '' --appendonly no --daemonize no "$@"
  await "$name" "Redis on port $port" redis-cli -p "$port" ping
}

# redis_cluster_up PORT PORT PORT: three masters, no replicas.
redis_cluster_up() {
  local port
  for port in "$@"; do
    redis_up "redis-cluster-$port" "$port" --cluster-enabled yes --cluster-node-timeout 2000 \
      --cluster-port "$(free_port)"
  done
  redis-cli --cluster create "${@/#/127.0.0.1:}" --cluster-replicas 0 --cluster-yes \
    >"$SERVICES/redis-cluster.log" 2>&1 || { cat "$SERVICES/redis-cluster.log" >&2; return 1; }
  for port in "$@"; do wait_for 30 "the cluster on port $port" redis_cluster_ok "$port"; done
}

redis_cluster_ok() { redis-cli -p "$1" cluster info | grep -q '^cluster_state:ok'; }

# ---- PostgreSQL -----------------------------------------------------------------------------------

# Where its files and its socket are: beside the others if the user that runs it can get there and a
# socket's path (107 bytes at most) fits, otherwise in a directory of its own, noted in postgres.home.
postgres_home() {
  local home=$SERVICES/postgres
  if [[ -r $SERVICES/postgres.home && -d $(<"$SERVICES/postgres.home") ]]; then
    cat "$SERVICES/postgres.home"
    return
  fi
  mkdir -p "$home"
  if [[ $(id -u) -eq 0 ]]; then chown postgres: "$home"; fi
  if ((${#home} > 80)) || ! "${AS_POSTGRES[@]}" test -x "$home"; then
    rmdir "$home" 2>/dev/null || true
    home=$(mktemp -d /tmp/syncline-pg.XXXXXX)
    if [[ $(id -u) -eq 0 ]]; then chown postgres: "$home"; fi
    echo "$home" >"$SERVICES/postgres.home"
  fi
  echo "$home"
}

# postgres_up PORT: user and database `syncline`, trusted on loopback. Commits reach the disk unless PG_FSYNC=off.
postgres_up() {
  local port=$1 bin home
  bin=$(find_pg_bin) || die "PostgreSQL is not installed"
  home=$(postgres_home)
  if [[ ! -e $home/data/PG_VERSION ]]; then
    (cd "$home" && "${AS_POSTGRES[@]}" "$bin/initdb" -D "$home/data" -U syncline -A trust -E UTF8 --locale=C --no-sync) \
      >"$SERVICES/postgres.log" 2>&1 || { cat "$SERVICES/postgres.log" >&2; return 1; }
  fi
  (cd "$home" && start_service postgres "${AS_POSTGRES[@]}" "$bin/postgres" -D "$home/data" -p "$port" -k "$home" \
    -c listen_addresses=127.0.0.1 -c "fsync=${PG_FSYNC:-on}" -c max_connections=200)
  await postgres "PostgreSQL on port $port" "$bin/psql" -h 127.0.0.1 -p "$port" -U syncline -d postgres -c 'select 1'
  "$bin/createdb" -h 127.0.0.1 -p "$port" -U syncline syncline 2>/dev/null || true
}

# ---- nginx ----------------------------------------------------------------------------------------

# nginx_up PORT INSTANCE…: the rules shipped in deploy/nginx, with these instances behind one address.
nginx_up() {
  local port=$1 dir=$SERVICES/nginx address
  shift
  mkdir -p "$dir"
  cp "$ROOT"/deploy/nginx/{syncline,locations}.conf "$dir/"
  for address in "$@"; do echo "server $address max_fails=1 fail_timeout=2s;"; done >"$dir/instances.conf"
  nginx_main "$dir" "$port" >"$dir/nginx.conf"
  start_service nginx "$(find_program nginx)" -e stderr -c "$dir/nginx.conf"
  await nginx "nginx on port $port" port_answers "$port"
}

port_answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# The main file of a private nginx: nothing outside its directory is written.
nginx_main() {
  local dir=$1 port=$2 kind
  if [[ $(id -u) -eq 0 ]]; then echo "user root;"; fi
  cat <<CONF
daemon off;
worker_processes 1;
pid $dir/pid;
error_log stderr;
events { worker_connections 16384; }
http {
$(for kind in client_body proxy fastcgi uwsgi scgi; do echo "  ${kind}_temp_path $dir/$kind;"; done)
  include syncline.conf;
  server {
    listen 127.0.0.1:$port;
    access_log $dir/access.log syncline;
    include locations.conf;
  }
}
CONF
}
