#!/bin/sh
# Makes sure that a Docker engine answers on this machine, and ends one that was started here.
#
#   engine.sh up       installs the distribution's engine if it is missing and we are root, starts it, waits for it
#   engine.sh down     ends the engine, if `up` started it
#   engine.sh status   says whether an engine answers; exit 0 if it does
#
# Safe to call twice. DOCKER_HOST is respected: where it names a remote engine, nothing is started.
set -eu

state=${CRUCIBLE_ENGINE_STATE:-/run/crucible-engine}
host=${DOCKER_HOST:-unix:///var/run/docker.sock}
wait_tenths=600

say() { printf 'engine: %s\n' "$1"; }
fail() {
	printf 'engine: %s\n' "$1" >&2
	exit 1
}

answers() { DOCKER_HOST=$host timeout 10 docker version --format '{{.Server.Version}}' 2>/dev/null; }

install_engine() {
	command -v apt-get >/dev/null 2>&1 ||
		fail "no dockerd here, and no apt-get to install it with: install Docker by hand"
	say "installing docker.io"
	# The package would start the service itself, with settings of its own; 101 forbids that.
	policy=/usr/sbin/policy-rc.d
	ours=no
	if [ ! -e "$policy" ]; then
		ours=yes
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
	fi
	code=0
	# Newer releases have the client in a package of its own, which the word splitting adds.
	# shellcheck disable=SC2046
	{
		DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
			DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
				docker.io $(apt-cache pkgnames docker-cli | grep -x docker-cli) >/dev/null
	} || code=$?
	[ "$ours" = no ] || rm -f "$policy"
	[ "$code" = 0 ] || fail "apt-get could not install docker.io"
}

start_engine() {
	mkdir -p "$state"
	# Containers of the sandbox have no network at all: no bridge and no packet filter are needed, nor the kernel
	# modules that they want.
	setsid dockerd --host "$host" --pidfile "$state/dockerd.pid" --bridge none \
		--iptables=false --ip6tables=false --ip-forward=false --ip-masq=false \
		>"$state/dockerd.log" 2>&1 </dev/null &
	tenths=0
	until version=$(answers); do
		if [ "$tenths" -ge "$wait_tenths" ] || { [ "$tenths" -gt 20 ] && ! kill -0 "$!" 2>/dev/null; }; then
			tail -n 20 "$state/dockerd.log" >&2
			fail "dockerd did not come up; its log is $state/dockerd.log"
		fi
		sleep 0.1
		tenths=$((tenths + 1))
	done
	say "Docker $version is up"
}

up() {
	if version=$(answers); then
		say "Docker $version already answers at $host"
		return
	fi
	case $host in
	unix://*) ;;
	*) fail "no engine answers at $host (DOCKER_HOST)" ;;
	esac
	[ "$(id -u)" = 0 ] || fail "no engine answers at $host, and only root can start one"
	PATH=$PATH:/usr/sbin:/sbin
	command -v dockerd >/dev/null 2>&1 || install_engine
	start_engine
}

down() {
	[ -s "$state/dockerd.pid" ] || {
		say "nothing to end: no engine was started here"
		return
	}
	pid=$(cat "$state/dockerd.pid")
	kill -TERM "$pid" 2>/dev/null || true
	tenths=0
	while kill -0 "$pid" 2>/dev/null; do
		[ "$tenths" -lt 200 ] || kill -KILL "$pid" 2>/dev/null || true
		sleep 0.1
		tenths=$((tenths + 1))
	done
	rm -f "$state/dockerd.pid"
	say "ended"
}

status() {
	version=$(answers) || fail "no engine answers at $host"
	say "Docker $version answers at $host"
}

case ${1:-} in
up) up ;;
down) down ;;
status) status ;;
*) fail "usage: engine.sh up|down|status" ;;
esac
