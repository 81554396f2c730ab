# Makes the inside of a node, as the first process of its namespaces: sh -eu node.sh FOLDER CGROUP NAME PROGRAM
folder=$1 cgroup=$2
hostname "$3"
mount -t proc proc /proc

# A /sys that shows this network namespace and has the host's cgroups, each of them once: libcontainer takes the first it finds.
mkdir -p "$folder/sys"
mount -t sysfs sysfs "$folder/sys"
mount --rbind /sys/fs/cgroup "$folder/sys/fs/cgroup"
umount --recursive --lazy /sys
mount --move "$folder/sys" /sys

# The cgroup below which the kubelet has its own. It inherits what version 1 does not hand down by itself.
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    mkdir -p "/sys/fs/cgroup/$cgroup"
    for parent in /sys/fs/cgroup "/sys/fs/cgroup/$cgroup"; do
        for controller in $(cat "$parent/cgroup.controllers"); do
            echo "+$controller" >"$parent/cgroup.subtree_control" || true
        done
    done
else
    for controller in /sys/fs/cgroup/*/; do
        mkdir -p "$controller$cgroup"
        for file in cpuset.cpus cpuset.mems; do
            [ ! -f "$controller$file" ] || cat "$controller$file" >"$controller$cgroup/$file"
        done
    done
fi

# What a node writes to, instead of the host's.
for place in /run /var/lib /var/log /opt; do
    mkdir -p "$folder/own$place"
done
umount --recursive --lazy /run/netns 2>/dev/null || true
mount -t tmpfs -o mode=755,size=64m run /run
for place in /var/lib /var/log /opt; do
    mount --bind "$folder/own$place" "$place"
done
mkdir -p /run/netns /run/lock /var/lib/kubelet

# A kubelet writes these for the whole host; here it finds that they are as it wants them.
while read -r path value; do
    [ -e "/proc/sys/$path" ] || continue
    mkdir -p "$folder/sysctl/$(dirname "$path")"
    echo "$value" >"$folder/sysctl/$path"
    mount --bind "$folder/sysctl/$path" "/proc/sys/$path"
done <<SYSCTLS
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
SYSCTLS
# The kernel gives a user namespace a /proc only where one is seen whole.
mkdir -p "$folder/proc"
mount -t proc proc "$folder/proc"

mount --make-rshared /
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
touch "$folder/made"
exec "$4" wait
