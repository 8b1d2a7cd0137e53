# First process of the machine's PID namespace: starts the server of the host's file system on the
# socket that it was handed, then becomes the machine. When that ends, the kernel ends the server too.
# Called with the descriptor, a library to preload, the server, and the machine's command line.
descriptor=$1 library=$2 server=$3
shift 3
# The guest caches for good: it is several times faster, and what the host changes in files that the
# guest has read must wait.
LD_PRELOAD="$library" "$server" --fd="$descriptor" --rlimit-nofile=0 \
    -o source=/ -o sandbox=chroot -o cache=always -o announce_submounts &
exec "$@"
