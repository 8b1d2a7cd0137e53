#!/bin/busybox sh
# First process of the virtual machine: loads what its root file system needs, and goes there.
while read -r module; do
    /bin/busybox insmod "/modules/$module"
done </modules/order
/bin/busybox mkdir /host
/bin/busybox mount -t virtiofs host /host
# The line that follows this file is `exec switch_root` to the lab's init script.
