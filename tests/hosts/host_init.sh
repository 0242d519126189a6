# First process of a pretend host, already in namespaces of its own (network, processes, mounts, name, IPC). Sourced settings:
#   NAME ADDRESS  of this host          FOLDER  where its home, /tmp and files for /etc stand
#   VISIBLE       folders below /tmp that it shares with the caller, one a line      SHM  size of /dev/shm
# It configures the host, starts sshd, says "up" and waits: when standard input ends, which is when the process that made
# the host ends in whatever way, it leaves, and the kernel kills everything in the host.
set -euo pipefail
cable() { # wait for the caller to plug the cable in
    read -r _
    ip link set lo up
    ip addr add "$ADDRESS/24" dev eth0
    ip link set eth0 up
    # Ray finds its own address by asking which way a packet to the internet would go; there is nobody at the other end.
    ip route add default via "${ADDRESS%.*}.1"
}
files() { # names, accounts, and folders that programs of two hosts must not share
    mount --make-rprivate /
    hostname "$NAME"
    for file in passwd shadow hosts resolv.conf; do
        if [ -e /etc/$file ]; then mount --bind "$FOLDER/etc/$file" "$(realpath /etc/$file)"; fi
    done
    rm -rf "$FOLDER/tmp"
    mkdir -m 1777 "$FOLDER/tmp"
    while read -r shared; do
        if [ -z "$shared" ]; then continue; fi
        mkdir -p "$FOLDER/tmp/${shared#/tmp/}"
        mount --bind "$shared" "$FOLDER/tmp/${shared#/tmp/}"
    done <<<"$VISIBLE"
    mkdir "$FOLDER/tmp/home"
    mount --bind "$FOLDER/home" "$FOLDER/tmp/home"
    mount --rbind "$FOLDER/tmp" /tmp
    mount -t tmpfs -o "size=$SHM,mode=1777" tmpfs /dev/shm
    mount -t tmpfs tmpfs /run
    mkdir /run/sshd
}
cable
files
cd /tmp/home
env -i HOME=/tmp/home PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    "$(command -v sshd)" -D -f /tmp/home/.ssh/sshd_config -E /tmp/home/.ssh/sshd.log </dev/null >/dev/null 2>&1 &
sshd=$!
for _ in $(seq 100); do
    if ! kill -0 $sshd 2>/dev/null; then
        cat /tmp/home/.ssh/sshd.log >&2
        exit 1
    fi
    if [ -n "$(ss -Hltn 'sport = :22')" ]; then
        echo up
        read -r _ || exit 0
    fi
    sleep 0.05
done
echo "sshd does not listen" >&2
exit 1
