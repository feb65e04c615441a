#!/bin/sh
# Boots a Debian machine with systemd under qemu and makes a cluster in it with kubeadm, on Gantline: preflight, the
# images, `kubeadm init`, and a pod. What the machine said is in target/vm/kubeadm.log.
#
#   kubeadm.sh
#
# Emulated (TCG), so it takes its time: SECONDS_MAX=14400, MEMORY=6144 (MiB). PROFILE=debug for a build that is quicker to
# make. The root file system is that of run.sh.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$(dirname "$here")")
target=$(cd "$root" && realpath -m "${CARGO_TARGET_DIR:-target}")
vm=$target/vm
profile=${PROFILE:-release}
PATH=$PATH:/usr/sbin:/sbin

fail() {
    echo "vm-kubeadm: $*" >&2
    exit 1
}

"$here/run.sh" root
for tool in kubeadm kubelet kubectl crictl cni/bridge; do
    [ -e "$target/tools/$tool" ] || fail "$tool is not built; run e2e/tools/build.sh kubeadm cluster crictl cni-plugins"
done

programs=$(mktemp -d "$vm/kubeadm.XXXXXX")
trap 'rm -rf "$programs" "$programs.ext4"' EXIT
install -m 755 "$here/kubeadm-init.sh" "$programs/init"
mkdir -p "$programs/bin" "$programs/cni"
strip -o "$programs/bin/gantline" "$target/$profile/gantline"
cp -L "$target/shim/gantline-shim" "$programs/bin/"
for tool in kubeadm kubelet kubectl crictl; do cp "$target/tools/$tool" "$programs/bin/"; done
find "$target/tools/cni" -type f ! -name '*.stamp' -exec cp {} "$programs/cni/" ';'
cp "$root/docs/gantline.service" "$root/cni/examples/10-bridge.conflist" "$programs/"
echo "vm-kubeadm: building the images"
(cd "$root" && ${CARGO:-cargo} build --locked -q -p e2e --bin kubeadm_images)
"$target/debug/kubeadm_images" "$programs/storage"

mke2fs -q -t ext4 -O ^has_journal -d "$programs" "$programs.ext4" 2G >/dev/null
# The images are on the disk now.
rm -rf "$programs/storage"
began=$(date +%s)
timeout "${SECONDS_MAX:-14400}" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m "${MEMORY:-6144}" \
    -nodefaults -no-reboot -display none -serial stdio \
    -kernel "$vm/vmlinuz" -initrd "$vm/initrd" \
    -drive "file=$vm/root.ext4,format=raw,if=virtio,snapshot=on" \
    -drive "file=$programs.ext4,format=raw,if=virtio,snapshot=on" \
    -append "root=/dev/vda rw console=ttyS0 panic=-1 quiet systemd.show_status=0 systemd.unit=vm-test.target" </dev/null |
    tee "$vm/kubeadm.log" | sed -u 's/\r$//; /^\[ *[0-9.]*\] /d; /^$/d; s/^/  /'
echo "vm-kubeadm: $(($(date +%s) - began)) s"
grep -q '^vm-test: all passed' "$vm/kubeadm.log" || fail "not everything passed; see $vm/kubeadm.log"
