#!/bin/sh
# Boots Debian machines with cgroup v2 alone under qemu and runs end-to-end tests and critest in them: without systemd
# and the cgroupfs driver, then with systemd as pid 1 and its driver, each with crun and with runc.
#
#   run.sh [cgroupfs|systemd|both] [crun|runc|both]
#   run.sh deb
#   run.sh root
#
# The second installs, upgrades, removes and purges the Debian package beside a running pod, with systemd, and reboots (deb.sh);
# SUITE=bookworm does it on Debian 12. The third makes only the root file system, for kubeadm.sh.
#
# TESTS="containers restart" names other test programs, FILTER=text a part of their tests, CRITEST="Container|OOM" the
# specs of critest by a regular expression; either may be empty.
#
# The root file system is made once, of Debian packages, and kept in target/vm. What a run writes is thrown away. Nothing
# is installed on the host but the tools named below.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$(dirname "$here")")
target=$(cd "$root" && realpath -m "${CARGO_TARGET_DIR:-target}")
# The first release whose OCI runtime and CRIU are recent. The tests are linked with an older libc, or the same.
suite=${SUITE:-trixie}
vm=$target/vm
[ "$suite" = trixie ] || vm=$vm-$suite
tests=${TESTS-cgroups pods containers restart streaming}
critest=${CRITEST-Container|Security Context|Seccomp}
# PROFILE=debug is a build that is quicker to make.
profile=${PROFILE:-release}
# One hung test shall not hang the door.
seconds_max=${SECONDS_MAX:-3600}
# The tests' own deadlines are for real machines.
patience=4

fail() {
    echo "vm-test: $*" >&2
    exit 1
}

driver=${1:-both} runtime=${2:-both}
case $driver in
cgroupfs | systemd | both | root) ;;
deb) tests='' critest='' runtime=crun ;;
*) fail "$driver is not cgroupfs, systemd, both, deb or root" ;;
esac
case $runtime in crun | runc | both) ;; *) fail "$runtime is not crun, runc or both" ;; esac

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

# The kernel and an initramfs that finds the disk; pid 1 and its bus; what pods need; what the tests look with.
packages=linux-image-cloud-amd64,kmod,systemd,systemd-sysv,dbus
packages=$packages,crun,criu,libseccomp2,containernetworking-plugins,iptables,nftables,apparmor
packages=$packages,iproute2,procps,util-linux,mount,docker-registry,busybox,ca-certificates
# critest's images are made of these.
packages=$packages,gcc,libc6-dev,nginx,apache2-bin
stamp=$(echo "$suite $packages 2" | sha256sum | cut -c 1-16)

if [ "$(cat "$vm/stamp" 2>/dev/null)" != "$stamp" ]; then
    echo "vm-test: making the root file system ($suite; some minutes, once)"
    rm -rf "$vm/root" "$vm/root.ext4" "$vm/stamp"
    mmdebstrap --quiet --mode=root --variant=minbase --format=directory --include="$packages" "$suite" "$vm/root" \
        >"$vm/mmdebstrap.log" 2>&1 || fail "mmdebstrap failed: $(tail -n 5 "$vm/mmdebstrap.log")"
    cp "$vm/root"/boot/vmlinuz-* "$vm/vmlinuz"
    cp "$vm/root"/boot/initrd.img-* "$vm/initrd"
    printf '#!/bin/sh\nmkdir -p /mnt/target\nmount /dev/vdb /mnt/target\nexec /mnt/target/init "$@"\n' \
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
    mke2fs -q -t ext4 -O ^has_journal -d "$vm/root" "$vm/root.ext4" 4G >/dev/null
    rm -rf "$vm/root"
    echo "$stamp" >"$vm/stamp"
fi

[ "$driver" != root ] || exit 0

# --- what is tested, laid out as a target directory ---

programs=$(mktemp -d "$vm/programs.XXXXXX")
trap 'rm -rf "$programs" "$programs.ext4"' EXIT
install -m 755 "$here/init.sh" "$programs/init"
mkdir -p "$programs/shim" "$programs/tests" "$programs/tools" "$programs/conformance"
strip -o "$programs/gantline" "$target/$profile/gantline"
cp "$target/shim/gantline-shim" "$programs/shim/"
for tool in crictl critest ginkgo runc; do
    [ -e "$target/tools/$tool" ] || fail "$tool is not built; run e2e/tools/build.sh crictl critest runc cni-plugins"
    cp "$target/tools/$tool" "$programs/tools/"
done
[ -d "$target/tools/cni" ] || fail "the CNI plugins are not built; run e2e/tools/build.sh cni-plugins"
cp -r "$target/tools/cni" "$programs/tools/"
# What critest's images are made of is installed in the machine.
ln -s / "$programs/conformance/packages"
cp "$root/e2e/conformance/expected.tsv" "$programs/conformance/"

# built NAME CARGO-ARGUMENTS…: builds a program of the workspace, and lays it out less its debug information, which is
# nine tenths of it.
built() {
    name=$1
    shift
    path=$(cd "$root" && ${CARGO:-cargo} "$@" --locked -q --message-format=json |
        sed -n "s/.*\"name\":\"$name\".*\"executable\":\"\([^\"]*\)\".*/\1/p" | tail -n 1)
    [ -n "$path" ] || fail "$name was not built"
    strip -o "$programs/tests/$name" "$path"
}
# The kernel room's own tests of cgroups: elsewhere they may have met v1 only.
[ "$driver" = deb ] || built kernel test -p kernel --lib --no-run
for test in $tests; do built "$test" test -p e2e --test "$test" --no-run; done
[ -z "$critest" ] || built conformance build -p e2e --bin conformance

# The package as it is and as an older one of itself, and busybox in the storage of a registry.
if [ "$driver" = deb ]; then
    case $profile in release) flag=--release ;; *) flag=--profile=dev ;; esac
    (cd "$root" && ${CARGO:-cargo} build --locked -q "$flag" -p gantline --features pages --bin gantline-pages)
    mkdir -p "$programs/deb" "$programs/busybox/root/bin"
    export DPKG_DEB_OPTIONS="-Zgzip -z1"
    mv "$(PROFILE=$profile VERSION=0.0.1 OUT=$programs/deb "$root/packaging/build.sh")" "$programs/deb/old.deb"
    mv "$(PROFILE=$profile OUT=$programs/deb "$root/packaging/build.sh")" "$programs/deb/new.deb"
    cp "$here/deb.sh" "$root/cni/examples/10-bridge.conflist" "$programs/"
    # The dynamic one, with its libraries where it looks for them.
    cp /bin/busybox "$programs/busybox/root/bin/"
    for library in $(ldd /bin/busybox | grep -o '/[^ ]*'); do
        install -D "$library" "$programs/busybox/root$library"
    done
    (
        cd "$programs/busybox"
        tar -C root --owner=0 --group=0 -cf layer.tar .
        printf '{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
            "$(sha256sum layer.tar | cut -d ' ' -f 1)" >config.json
        printf '[{"Config":"config.json","RepoTags":["busybox:1"],"Layers":["layer.tar"]}]' >manifest.json
        tar -cf "$programs/busybox.tar" config.json manifest.json layer.tar
    )
    rm -r "$programs/busybox"
    sed "s|ROOT|$programs/registry|" <<-'CONFIG' >"$programs/registry.yml"
		version: 0.1
		log: {level: error, accesslog: {disabled: true}}
		storage: {filesystem: {rootdirectory: ROOT}}
		http: {addr: '127.0.0.1:5000'}
	CONFIG
    # In a network of its own: the port may be taken here.
    OTEL_TRACES_EXPORTER=none unshare --net sh -ec '
        ip link set lo up
        docker-registry serve "$1/registry.yml" >"$1/registry.log" 2>&1 &
        registry=$!
        trap "kill $registry" EXIT
        for _ in 1 2 3 4 5; do
            skopeo copy -q --dest-tls-verify=false "docker-archive:$1/busybox.tar" docker://127.0.0.1:5000/busybox:1 && exit 0
            sleep 1
        done
        cat "$1/registry.log"
        exit 1' sh "$programs" || fail "push busybox"
    rm "$programs/busybox.tar" "$programs/registry.log"
    sed -i "s|$programs/registry|/mnt/target/registry|" "$programs/registry.yml"
fi

# run DRIVER RUNTIME KERNEL-ARGUMENTS [QEMU-ARGUMENTS]: one machine, from boot to power off.
run() {
    log=$vm/$1-$2.log
    cat >"$programs/plan" <<-PLAN
		driver=$1
		runtime=$2
		tests="$tests"
		filter="${FILTER:-}"
		critest="$critest"
		patience=$patience
		source="$root"
	PLAN
    rm -f "$programs.ext4"
    mke2fs -q -t ext4 -O ^has_journal -d "$programs" "$programs.ext4" 768M >/dev/null
    echo "vm-test: $1 driver, $2; the machine's words are in $log"
    began=$(date +%s)
    # shellcheck disable=SC2086
    timeout "$seconds_max" qemu-system-x86_64 -accel tcg -cpu max -smp 2 -m 3072 \
        -nodefaults ${4:-} -display none -serial stdio \
        -kernel "$vm/vmlinuz" -initrd "$vm/initrd" \
        -drive "file=$vm/root.ext4,format=raw,if=virtio,snapshot=on" \
        -drive "file=$programs.ext4,format=raw,if=virtio,snapshot=on" \
        -append "root=/dev/vda rw console=ttyS0 panic=-1 quiet $3" </dev/null |
        tee "$log" | sed -u 's/\r$//; /^\[ *[0-9.]*\] /d; /^$/d; s/^/  /'
    echo "vm-test: $1 driver, $2: $(($(date +%s) - began)) s"
    grep -q '^vm-test: all passed' "$log" || failed="$failed $1-$2"
}

# Kernel arguments: these do not start.
masked=$(printf 'systemd.mask=%s ' serial-getty@ttyS0.service timers.target docker-registry.service nginx.service apache2.service)

[ "$driver" = both ] && driver="cgroupfs systemd"
[ "$runtime" = both ] && runtime="crun runc"
failed=
for one in $driver; do
    for with in $runtime; do
        case $one in
        cgroupfs) run cgroupfs "$with" "init=/sbin/vm-init" -no-reboot ;;
        # It boots as any machine does, less what the tests' packages would start: that takes ports, or time. It may
        # reboot, with what it has written.
        deb) run deb "$with" "systemd.show_status=0 systemd.wants=vm-test.service $masked" ;;
        systemd) run systemd "$with" "systemd.show_status=0 systemd.unit=vm-test.target" -no-reboot ;;
        esac
    done
done
[ -z "$failed" ] || fail "not everything passed:$failed; see the logs in $vm"
