#!/bin/sh
# First process of a lab: lays the cached packages over /usr and /etc, makes places to write, then
# runs the command. On user-mode Linux and in the virtual machine it is process 1 of a kernel whose
# root is the host's own file system; on the host kernel it runs in namespaces of its own. Either way
# no write below goes to disk.
set -u
if [ "$$" = 1 ] && [ -z "${LAB_FIRST:-}" ]; then
    # An ordinary user's kernel sees the host's root as nobody, and `mount` is set-user-id: it would
    # give up the very rights that it needs. Without new privileges it keeps those it has.
    LAB_FIRST=done exec setpriv --no-new-privs "$0"
fi
here=${0%/*}
# Exports LAB_KERNEL, LAB_PACKAGES, LAB_PEERS, LAB_DIRECTORY, LAB_MARK, LAB_TERMINAL, and sets the
# command as "$@".
. "$here/settings"

if [ "$LAB_KERNEL" != host ]; then
    # The command's line endings are its own affair.
    stty -opost
    [ -n "$LAB_TERMINAL" ] || exec </dev/null
    printf '%s begin\n' "$LAB_MARK"
    mount -t proc proc /proc
    mount -t sysfs sysfs /sys
    [ "$LAB_KERNEL" = uml ] || mount -t devtmpfs dev /dev
    mkdir -p /dev/pts /dev/shm
    mount -t devpts devpts /dev/pts
    mount -t tmpfs shm /dev/shm
fi

mount -t tmpfs -o mode=0755 lab /run
mkdir -p /run/lab/bpf /run/lab/tmp /run/lab/etc /run/lab/work
# A mount point of its own: whoever remounts /sys hides /sys/fs/bpf.
mount -t bpf -o mode=0700 bpf /run/lab/bpf

if [ "$LAB_KERNEL" = uml ]; then
    modules="$LAB_PACKAGES/usr/lib/uml/modules/$(uname -r)"
    # Overlayfs is itself a module, and modprobe is only in place once something is laid over /usr.
    # kmod goes by the name it is called with.
    ln -s "$LAB_PACKAGES/usr/bin/kmod" /run/lab/insmod
    LD_LIBRARY_PATH="$(echo "$LAB_PACKAGES"/usr/lib/*-linux-gnu)" \
        /run/lab/insmod "$modules/kernel/fs/overlayfs/overlay.ko"
fi

lower=/usr
# No path of the cache has blanks.
for packages in $LAB_PACKAGES $LAB_PEERS; do
    [ -d "$packages/usr" ] && lower="$packages/usr:$lower"
done
[ "$lower" = /usr ] || mount -t overlay -o "lowerdir=$lower" lab-usr /usr ||
    echo "lab: no overlay on this kernel, so no peers and no cached tools" >&2
lower=/etc
for packages in $LAB_PEERS; do
    [ -d "$packages/etc" ] && lower="$packages/etc:$lower"
done
mount -t overlay -o "lowerdir=$lower,upperdir=/run/lab/etc,workdir=/run/lab/work" lab-etc /etc ||
    echo "lab: /etc is not writable" >&2

if [ "$LAB_KERNEL" = uml ]; then
    mount -t tmpfs modules /usr/lib/modules
    mkdir "/usr/lib/modules/$(uname -r)"
    mount --bind "$modules" "/usr/lib/modules/$(uname -r)"
fi
if [ "$LAB_KERNEL" != host ]; then
    # Named here because a failed search for them costs seconds at the first SA.
    modprobe -q -a esp4 esp6 xfrm_user gcm seqiv ghash-generic ctr chacha20poly1305 veth
    echo lab >/proc/sys/kernel/hostname
fi
ip link set lo up

cd "$LAB_DIRECTORY" || exit 1
if [ -z "$LAB_MARK" ]; then
    exec "$@"
fi
("$@")
status=$?
# Pages of host files that were written here still sit in this kernel.
sync
printf '%s exit %s\n' "$LAB_MARK" "$status"
# Whoever reads the mark ends this kernel. Its own farewell would overtake the mark on a serial line.
[ "$LAB_KERNEL" = uml ] || sleep 10
echo o >/proc/sysrq-trigger
sleep 60
