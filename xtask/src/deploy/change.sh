# Puts what was staged in place and starts it, or what was there before.
# Arguments: install, confirm, restore or guard, the prefix, the configuration file, the control
# socket, this deployment's name, and how many seconds it may take until it is confirmed.
set -eu
verb=$1 prefix=$2 config=$3 socket=$4 name=$5 seconds=$6
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin
lib=$prefix/lib/rekindle
# Whoever takes it away decides what becomes of the new version; nobody else can then.
pending=$lib/pending.$name
unit=/etc/systemd/system/rekindled.service
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

# Whether systemd has it under its hands: what has crashed or been killed is started again by it.
unit_runs() {
    by_systemd && case $(systemctl show --property ActiveState --value rekindled) in
    active | activating | reloading) true ;;
    *) false ;;
    esac
}

# Another description is somebody's own unit.
unit_is_ours() {
    grep -qs '^Description=IKEv2 gateway$' "$unit"
}

# What a replacement of sed is to be taken for, letter by letter.
letters() {
    printf '%s' "$1" | sed 's/[&|\\]/\\&/g'
}

write_unit() {
    by_systemd || return 0
    [ ! -f "$unit" ] || cp -p "$unit" "$lib/previous/"
    if [ ! -f "$unit" ] || unit_is_ours; then
        sed -e "s|/usr/|$(letters "$prefix")/|g" \
            -e "s|/etc/rekindle/rekindle.toml|$(letters "$config")|" \
            -e "s|/run/rekindle/control.sock|$(letters "$socket")|" \
            "$lib/next/rekindled.service" >"$unit"
    fi
}

# Without a DELETE to anybody: the kernel goes on protecting, and sessions outlive the change.
stop() {
    "$prefix/bin/ikectl" --socket "$socket" --quiet shutdown 2>/dev/null || true
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        [ -n "$(daemons)" ] || break
        sleep 1
    done
    # The restart of the unit, which start() asks for, ends what does not listen.
    if [ -n "$(daemons)" ] && ! unit_runs; then
        # Sessions outlive this too.
        kill -9 $(daemons) 2>/dev/null || true
        sleep 1
    fi
}

start() {
    if by_systemd; then
        systemctl daemon-reload
        systemctl enable --quiet rekindled
        # One that has crashed too often would not be started at all.
        systemctl reset-failed rekindled 2>/dev/null || true
        systemctl restart rekindled
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
    former=$lib/previous/rekindled.service
    [ ! -f "$former" ] || place "$former" "$unit"
    if [ -x "$prefix/sbin/rekindled" ]; then
        start
    elif by_systemd; then
        systemctl disable --quiet --now rekindled 2>/dev/null || true
        ! unit_is_ours || rm "$unit"
        systemctl daemon-reload
    fi
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
    write_unit
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
