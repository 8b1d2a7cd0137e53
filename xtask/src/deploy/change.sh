# Puts what was staged in place and starts it, or what was there before.
# Arguments: install, confirm, restore or guard, the prefix, the configuration file, the control
# socket, this deployment's name, and how many seconds it may take until it is confirmed.
set -eu
verb=$1 prefix=$2 config=$3 socket=$4 name=$5 seconds=$6
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin
lib=$prefix/lib/rekindle
# Whoever takes it away decides what becomes of the new version; nobody else can then.
pending=$lib/pending.$name
files='sbin/rekindled bin/ikectl lib/rekindle/gate-direct.o lib/rekindle/gate-portable.o'

# The keepers that run from this prefix; a file that was replaced is marked as deleted.
daemons() {
    ls -l /proc/[0-9]*/exe 2>/dev/null | awk -v "ours=$prefix/sbin/rekindled" '
        $(NF - 1) == "->" && $NF == ours || $(NF - 1) == ours && $NF == "(deleted)" {
            split(substr($0, index($0, "/proc/")), path, "/")
            print path[3]
        }'
}

by_systemd() {
    [ -d /run/systemd/system ]
}

# Without a DELETE to anybody: the kernel goes on protecting, and sessions outlive the change.
stop() {
    "$prefix/bin/ikectl" --socket "$socket" --quiet shutdown 2>/dev/null || true
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        [ -n "$(daemons)" ] || break
        sleep 1
    done
    if [ -n "$(daemons)" ]; then
        # It does not listen. Sessions outlive this too.
        kill -9 $(daemons) 2>/dev/null || true
        sleep 1
    fi
    # What has crashed or been killed would be started again, under our hands.
    ! by_systemd || systemctl stop rekindled 2>/dev/null || true
}

start() {
    if by_systemd; then
        unit=/etc/systemd/system/rekindled.service
        [ -f "$unit" ] || cat >"$unit" <<END
[Unit]
Description=IKEv2 gateway
After=network-online.target
Wants=network-online.target

[Service]
ExecStart=$prefix/sbin/rekindled --config $config
ExecReload=$prefix/bin/ikectl --socket $socket --quiet reload
Restart=on-failure

[Install]
WantedBy=multi-user.target
END
        systemctl daemon-reload
        systemctl enable --quiet rekindled
        # One that has crashed too often would not be started at all.
        systemctl reset-failed rekindled 2>/dev/null || true
        systemctl start rekindled
        return
    fi
    mkdir -p /var/log
    (
        cd /
        exec "$prefix/sbin/rekindled" --config "$config" </dev/null >>/var/log/rekindled.log 2>&1
    ) &
}

# cp and mv, so that there is never half a file under a name that runs.
place() {
    mkdir -p "$(dirname "$2")"
    cp -p "$1" "$2.new"
    mv -f "$2.new" "$2"
}

restore() {
    stop
    for file in $files; do
        kept=$lib/previous/$(basename "$file")
        if [ -f "$kept" ]; then
            place "$kept" "$prefix/$file"
        else
            rm -f "$prefix/$file"
        fi
    done
    [ ! -x "$prefix/sbin/rekindled" ] || start
}

decided() {
    echo "nothing to do: not begun, or put back already" >&2
    exit 1
}

case $verb in
install)
    # An earlier deployment that still waits has nothing to say any more.
    rm -f "$lib"/pending.*
    rm -rf "$lib/previous"
    mkdir -p "$lib/previous"
    for file in $files; do
        [ ! -f "$prefix/$file" ] || cp -p "$prefix/$file" "$lib/previous/"
    done
    sync
    : >"$pending"
    # The new version may cut the way on which we came.
    cp "$lib/next/change.sh" "$lib/guard.sh"
    setsid sh "$lib/guard.sh" guard "$prefix" "$config" "$socket" "$name" "$seconds" \
        </dev/null >/dev/null 2>&1 &
    stop
    for file in $files; do
        staged=$lib/next/$(basename "$file")
        [ ! -f "$staged" ] || place "$staged" "$prefix/$file"
    done
    rm -rf "$lib/next"
    start
    ;;
confirm)
    rm "$pending" 2>/dev/null || decided
    ;;
restore)
    rm "$pending" 2>/dev/null || decided
    restore
    ;;
guard)
    trap '' HUP
    while [ "$seconds" -gt 0 ] && [ -f "$pending" ]; do
        sleep 1
        seconds=$((seconds - 1))
    done
    rm "$pending" 2>/dev/null || exit 0
    restore
    ;;
esac
