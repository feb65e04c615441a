#!/bin/sh
# Inside the machine: pid 1 of one without systemd, or what systemd starts (`vm-init tests`). Runs the tests of the
# second disk, says how they ended, and switches the machine off.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

if [ "${1:-}" != tests ]; then
    # The initramfs has mounted /proc, /sys, /dev and /run.
    mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
    mount -t securityfs securityfs /sys/kernel/security
    mkdir -p /dev/pts /dev/shm
    mountpoint -q /dev/pts || mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
    mount -t tmpfs tmpfs /dev/shm
    ip link set lo up
fi

. /mnt/target/plan
# `crun version 1.21`, `systemd 257 (257.13-1)`.
version() { "$@" --version | sed -n '1s/^[a-z]* \(version \)\{0,1\}\([^ ]*\).*/\2/p'; }
echo "vm-test: $(. /etc/os-release && echo "$PRETTY_NAME"), Linux $(uname -r), pid 1 is $(cat /proc/1/comm)"
echo "vm-test: crun $(version crun), runc $(version /mnt/target/tools/runc), systemd $(version systemctl), CRIU $(criu --version | sed -n "s/^Version: //p")"
echo "vm-test: cgroup v2 with $(cat /sys/fs/cgroup/cgroup.controllers)"
if [ "$driver" = deb ]; then
    if sh /mnt/target/deb.sh; then echo "vm-test: all passed"; else echo "vm-test: failed: deb"; fi
    sync
    echo o >/proc/sysrq-trigger
    sleep 100
fi
export CARGO_TARGET_DIR=/mnt/target RUST_BACKTRACE=0 GANTLINE=/mnt/target/gantline
export GANTLINE_E2E_CGROUP_DRIVER="$driver" GANTLINE_E2E_RUNTIME="$runtime" GANTLINE_E2E_PATIENCE="$patience"
# Debian 13's plugins are of 2022, and fail to undo what its iptables was not told to do.
install -m 755 $(find /mnt/target/tools/cni -type f ! -name '*.stamp') /usr/lib/cni/
failed=
for part in cgroup:: overlay::; do
    echo "vm-test: units of kernel, $part"
    /mnt/target/tests/kernel --color never $part || failed="$failed kernel"
done
for test in $tests; do
    echo "vm-test: $test"
    # Emulated, the machine is slow enough with one node at a time.
    # shellcheck disable=SC2086
    "/mnt/target/tests/$test" --color never --test-threads=1 $filter || failed="$failed $test"
done
if [ -n "$critest" ]; then
    echo "vm-test: critest $critest"
    # Where the program was built is where it looks for its expectations.
    mkdir -p "$source/e2e/conformance"
    cp /mnt/target/conformance/expected.tsv "$source/e2e/conformance/"
    /mnt/target/tests/conformance "$runtime" "$critest" || failed="$failed critest"
fi
if [ -z "$failed" ]; then echo "vm-test: all passed"; else echo "vm-test: failed:$failed"; fi
sync
# This needs neither systemd nor a daemon for ACPI.
echo o >/proc/sysrq-trigger
sleep 100
