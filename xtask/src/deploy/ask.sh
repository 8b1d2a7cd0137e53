# Asks the daemon how it is; prints "well", "gone" or "wait", and what is behind it.
# Arguments: the prefix, the control socket.
prefix=$1 socket=$2

said=$("$prefix/bin/ikectl" --socket "$socket" status --check 2>&1)
if [ $? -le 1 ]; then
    echo "well $said"
elif ls -l /proc/[0-9]*/exe 2>/dev/null | grep -q " $prefix/sbin/rekindled$"; then
    echo "wait $said"
else
    if [ -d /run/systemd/system ]; then
        said=$(journalctl -q -u rekindled -n 3 -o cat 2>&1)
    else
        said=$(tail -n 3 /var/log/rekindled.log 2>&1)
    fi
    echo "gone $said"
fi
