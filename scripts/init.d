#!/bin/sh
### BEGIN INIT INFO
# Provides:          mepd
# Required-Start:    $remote_fs $network $named $time
# Required-Stop:     $remote_fs $network
# Should-Start:      $syslog slapd nslcd sssd
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: multi-user endpoint daemon
# Description:       Starts user endpoints for people without a shell, each as
#                    their own account. See mepd(8).
### END INIT INFO

# To be installed as /etc/init.d/mepd; /etc/default/mepd may set these.
PREFIX=/opt/mepd
CONFIG=/etc/mepd/mepd.conf
PIDFILE=/run/mepd/mepd.pid
STOP_TIMEOUT=30
[ -r /etc/default/mepd ] && . /etc/default/mepd

DAEMON=$PREFIX/bin/mepd
MEPCTL=$PREFIX/bin/mepctl

say() {
    echo "mepd: $*"
}

need_root() {
    [ "$(id -u)" = 0 ] || { say "must be root" >&2; exit 4; }
}

need() {
    [ -x "$DAEMON" ] || { say "$DAEMON is not installed" >&2; exit 5; }
    [ -r "$CONFIG" ] || { say "$CONFIG is missing or unreadable" >&2; exit 6; }
    need_root
}

# A running mepd holds its pidfile locked, so neither a stale file nor a reused pid misleads.
# It is opened here because flock(1) would make one anew that mepd has just removed.
running() {
    ! { flock --nonblock --shared 9 9<"$PIDFILE"; } 2>/dev/null && [ -e "$PIDFILE" ]
}

start() {
    need
    running && { say "already running"; return 0; }
    "$DAEMON" --configuration "$CONFIG" || return 1
    say "started"
}

stop() {
    running || { say "not running"; return 0; }
    need_root # and no more: mepd is to be stopped also when it has been removed
    end 9<"$PIDFILE" || { running && return 1; }
    say "stopped"
}

# The pidfile is descriptor 9, opened before mepd can remove it: its lock lasts as long as mepd.
end() {
    read -r pid <&9 && kill -TERM "$pid"
    flock --timeout "$STOP_TIMEOUT" --shared 9 || {
        say "did not stop in $STOP_TIMEOUT s; killing it" >&2
        kill -KILL "$pid"
        flock --timeout 5 --shared 9
    }
}

reload() {
    running || { say "not running" >&2; return 7; }
    need
    kill -HUP "$(cat "$PIDFILE")" && say "reloading"
}

case ${1:-} in
start | stop | reload)
    "$1"
    ;;
force-reload)
    reload
    ;;
restart)
    need
    stop && start
    ;;
try-restart)
    running || exit 0
    need
    stop && start
    ;;
status)
    [ -x "$MEPCTL" ] || { say "$MEPCTL is not installed" >&2; exit 4; }
    "$MEPCTL" --configuration "$CONFIG" status
    ;;
*)
    echo "usage: $0 {start|stop|restart|try-restart|reload|force-reload|status}" >&2
    exit 2
    ;;
esac
