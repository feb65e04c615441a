#!/bin/sh
# Boots a Debian machine with cgroup v2 alone under qemu and runs end-to-end tests in it, first without systemd, then
# with systemd as pid 1 and the systemd cgroup driver. `run.sh cgroupfs` or `run.sh systemd` is one of both;
# TESTS="containers restart" names other test programs, FILTER=text a part of their tests.
#
# The root file system is made once, of Debian packages of the host's own release (the tests are linked with its libc),
# and kept in target/vm. What a run writes is thrown away. Nothing is installed on the host but the tools named below.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$(dirname "$here")")
target=$(cd "$root" && realpath -m "${CARGO_TARGET_DIR:-target}")
vm=$target/vm
tests=${TESTS:-cgroups pods containers restart}
# One hung test shall not hang the door.
seconds_max=1500

fail() {
    echo "vm-test: $*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || fail "this needs root, to make a root file system with its owners"
for pair in qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap mke2fs:e2fsprogs; do
    if ! PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null; then
        echo "vm-test: installing ${pair##*:}"
        DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${pair##*:}" >/dev/null ||
            fail "apt-get could not install ${pair##*:}"
    fi
done
PATH=$PATH:/usr/sbin:/sbin
mkdir -p "$vm"

# --- the root file system ---

# The kernel and an initramfs that finds the disk; what pods and the tests need; pid 1 and its bus.
packages=linux-image-cloud-amd64,kmod,systemd,systemd-sysv,dbus
packages=$packages,crun,containernetworking-plugins,iptables,nftables,iproute2,procps,util-linux,mount
packages=$packages,docker-registry,busybox,ca-certificates
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
stamp=$(echo "$suite $packages 1" | sha256sum | cut -c 1-16)

if [ "$(cat "$vm/stamp" 2>/dev/null)" != "$stamp" ]; then
    echo "vm-test: making the root file system ($suite; a minute or two, once)"
    rm -rf "$vm/root" "$vm/root.ext4" "$vm/stamp"
    mmdebstrap --quiet --mode=root --variant=minbase --format=directory --include="$packages" "$suite" "$vm/root" \
        >"$vm/mmdebstrap.log" 2>&1 || fail "mmdebstrap failed: $(tail -n 5 "$vm/mmdebstrap.log")"
    cp "$vm/root"/boot/vmlinuz-* "$vm/vmlinuz"
    cp "$vm/root"/boot/initrd.img-* "$vm/initrd"
    printf '#!/bin/sh\nmkdir -p /mnt/target\nmount -o ro /dev/vdb /mnt/target\nexec /mnt/target/init "$@"\n' \
        >"$vm/root/sbin/vm-init"
    chmod 755 "$vm/root/sbin/vm-init"
    cat >"$vm/root/etc/systemd/system/vm-test.service" <<-'UNIT'
		[Unit]
		Description=The tests of this machine
		After=dbus.service
		Requires=dbus.service
		[Service]
		Type=oneshot
		ExecStart=/sbin/vm-init tests
		StandardOutput=tty
		StandardError=tty
		TTYPath=/dev/ttyS0
		Delegate=yes
		KillMode=process
		TimeoutStartSec=infinity
	UNIT
    # Only what the tests need comes up.
    cat >"$vm/root/etc/systemd/system/vm-test.target" <<-'UNIT'
		[Unit]
		Description=The tests
		Requires=basic.target vm-test.service
		After=basic.target
	UNIT
    mke2fs -q -t ext4 -O ^has_journal -d "$vm/root" "$vm/root.ext4" 3G >/dev/null
    rm -rf "$vm/root"
    echo "$stamp" >"$vm/stamp"
fi

# --- what is tested, laid out as a target directory ---

programs=$(mktemp -d "$vm/programs.XXXXXX")
trap 'rm -rf "$programs" "$programs.ext4"' EXIT
install -m 755 "$here/init.sh" "$programs/init"
mkdir -p "$programs/debug" "$programs/shim" "$programs/tests" "$programs/tools"
# Debug information is nine tenths of them.
strip -o "$programs/debug/gantline" "$target/debug/gantline"
cp "$target/shim/gantline-shim" "$programs/shim/"
[ ! -e "$target/tools/crictl" ] || cp "$target/tools/crictl" "$programs/tools/"
# The kernel room's own tests of cgroups: elsewhere they may have met v1 only.
built=$(cd "$root" && ${CARGO:-cargo} test --locked -q -p kernel --lib --no-run --message-format=json |
    sed -n 's/.*"name":"kernel".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
strip -o "$programs/tests/kernel-units" "$built"
for test in $tests; do
    built=$(cd "$root" && ${CARGO:-cargo} test --locked -q -p e2e --test "$test" --no-run --message-format=json |
        sed -n "s/.*\"name\":\"$test\".*\"executable\":\"\([^\"]*\)\".*/\1/p" | tail -n 1)
    [ -n "$built" ] || fail "the test program $test was not built"
    strip -o "$programs/tests/$test" "$built"
done

# run DRIVER INIT ARGUMENTS: one machine, from boot to power off.
run() {
    printf 'driver=%s\ntests="%s"\nfilter="%s"\n' "$1" "$tests" "${FILTER:-}" >"$programs/plan"
    rm -f "$programs.ext4"
    mke2fs -q -t ext4 -O ^has_journal -d "$programs" "$programs.ext4" 512M >/dev/null
    log=$vm/$1.log
    echo "vm-test: $1 driver; the machine's words are in $log"
    began=$(date +%s)
    timeout "$seconds_max" qemu-system-x86_64 -accel tcg -cpu max -smp 2 -m 3072 \
        -nodefaults -no-reboot -display none -serial stdio \
        -kernel "$vm/vmlinuz" -initrd "$vm/initrd" \
        -drive "file=$vm/root.ext4,format=raw,if=virtio,snapshot=on" \
        -drive "file=$programs.ext4,format=raw,if=virtio,snapshot=on" \
        -append "root=/dev/vda rw console=ttyS0 panic=-1 quiet $2" </dev/null |
        tee "$log" | sed -u 's/\r$//; /^\[ *[0-9.]*\] /d; /^$/d; s/^/  /'
    echo "vm-test: $1 driver: $(($(date +%s) - began)) s"
    grep -q '^vm-test: all passed' "$log" || fail "the tests of the $1 driver did not pass; see $log"
}

which=${1:-both}
case $which in cgroupfs | systemd | both) ;; *) fail "$which is not cgroupfs, systemd or both" ;; esac
[ "$which" = systemd ] || run cgroupfs "init=/sbin/vm-init"
[ "$which" = cgroupfs ] ||
    run systemd "systemd.unified_cgroup_hierarchy=1 systemd.show_status=0 systemd.unit=vm-test.target"
