# Looks at a machine and changes nothing; prints a line for each thing found, KEY=VALUE.
# Arguments: the prefix, the configuration file.
prefix=$1 config=$2
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin

say() { printf '%s=%s\n' "$1" "$2"; }

say kernel "$(uname -r)"
say machine "$(uname -m)"
say user "$(id -u)"
say clock "$(date +%s)"
say service "$([ -d /run/systemd/system ] && echo systemd || echo none)"
say tar "$(command -v tar >/dev/null && echo yes || echo no)"
say config "$([ -f "$config" ] && echo yes || echo no)"
say installed "$([ -x "$prefix/sbin/rekindled" ] && echo yes || echo no)"
folder=$prefix
while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
say free "$(df -Pk "$folder" | awk 'NR == 2 { print $4 }')"
say bpf "$(grep -qw bpf /proc/filesystems && echo yes || echo no)"

# An SA in a network of its own, which goes with it.
if command -v unshare >/dev/null && command -v ip >/dev/null; then
    if said=$(unshare -n ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1000 \
        mode tunnel aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128 2>&1)
    then say esp yes
    else say esp "no: $(printf %s "$said" | tr '\n' ' ')"
    fi
    ip -o address show scope global 2>/dev/null | awk '{ print $2 }' | sort -u |
    while read -r name; do
        driver=$(basename "$(readlink "/sys/class/net/$name/device/driver" 2>/dev/null)" 2>/dev/null)
        [ -n "$driver" ] || driver=$(ip -d -o link show "$name" |
            grep -ow -e veth -e bridge -e bond -e vlan -e tun -e wireguard | head -n 1)
        taken=$(ip -d link show "$name" | sed -n 's/.*prog\/xdp id \([0-9]*\).*/\1/p' | head -n 1)
        say interface "$name ${driver:--} ${taken:--}"
    done
else
    say esp "unknown: no unshare or no ip"
fi

# UDP sockets on 500 and 4500, and whose they are: the first input has the sockets by inode, the second
# the files that processes have open, under a heading for each process.
{
    cat /proc/net/udp /proc/net/udp6 2>/dev/null
    ls -l /proc/[0-9]*/fd 2>/dev/null
} | awk '
    $2 ~ /:01F4$/ { port[$10] = 500 }
    $2 ~ /:1194$/ { port[$10] = 4500 }
    /^\/proc\// { split($1, path, "/"); process = path[3] }
    match($NF, /^socket:\[[0-9]+\]$/) {
        inode = substr($NF, 9, RLENGTH - 9)
        if (inode in port) owner[inode] = process
    }
    END { for (inode in port) print port[inode], (inode in owner) ? owner[inode] : "-" }
' | sort -u | while read -r port process; do
    [ "$process" = - ] || process=$(cat "/proc/$process/comm" 2>/dev/null || echo -)
    say port "$port $process"
done | sort -u
say end ok
