# shellcheck shell=sh
# Process 1 of a host: makes its tree and network, runs the boot hook, and ends when the machine goes off.
set -eu
mount --make-rprivate /
mount -t proc proc /proc
if [ -e /proc/sysrq-trigger ]; then mount --bind /dev/null /proc/sysrq-trigger; fi # it is the real machine's
hostname "$HOST_NAME"

# Folders that only root may enter are replaced by open ones with the same in them: roles run as another user.
for closed in $BED_OPEN; do
  saved=$HOST/saved$(echo "$closed" | tr / _)
  mkdir -p "$saved"
  mount --bind "$closed" "$saved"
  mount -t tmpfs -o mode=755 open "$closed"
  for child in "$saved"/* "$saved"/.[!.]*; do
    [ -e "$child" ] || continue
    if [ -d "$child" ]; then mkdir "$closed/${child##*/}"; else : >"$closed/${child##*/}"; fi
    mount --bind "$child" "$closed/${child##*/}"
  done
done

# What an installer put onto this machine's disk.
if [ -d "$HOST/etc" ]; then mount -t overlay -o "lowerdir=$HOST/etc:/etc" overlay /etc; fi
grep -v '^vidcloud:' /etc/passwd >"$HOST/passwd" || :
echo 'vidcloud:x:4100:4100::/run:/bin/sh' >>"$HOST/passwd"
grep -v '^vidcloud:' /etc/group >"$HOST/group" || :
echo 'vidcloud:x:4100:' >>"$HOST/group"
mount --bind "$HOST/passwd" /etc/passwd
mount --bind "$HOST/group" /etc/group
mount -t tmpfs -o mode=755 run /run
mount --bind "$HOST/disk" /srv

ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.01; done
ip addr add "$HOST_ADDRESS" dev eth0
ip link set eth0 up
ip route add "$HOST_METADATA/32" dev eth0

trap 'exit 0' TERM
sh "$BED_HOOK" &
wait "$!" || :
while :; do
  sleep 3600 &
  wait "$!"
done
