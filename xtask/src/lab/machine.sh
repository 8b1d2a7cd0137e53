# First process of the machine's PID namespace: starts the server of the host's file system on the
# socket that it was handed, then becomes the machine. When that ends, the kernel ends the server too.
# Called with the descriptor, the server, and the machine's command line. The guest caches for good:
# it is several times faster, and what the host changes in files that it has read must wait.
descriptor=$1 server=$2
shift 2
"$server" --fd="$descriptor" -o source=/ -o sandbox=chroot -o cache=always -o announce_submounts \
    --rlimit-nofile=0 &
exec "$@"
