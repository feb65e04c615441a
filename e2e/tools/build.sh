#!/bin/sh
# Builds the Go programs that the end-to-end tests drive or compare with, each from a module pinned beside this
# script, into <cargo target dir>/tools. What is up to date is skipped.
#
#   e2e/tools/build.sh crictl runc containerd cni-plugins
set -eu

here=$(cd "$(dirname "$0")" && pwd)
out="${CARGO_TARGET_DIR:-$here/../../target}/tools"
mkdir -p "$out"
out=$(cd "$out" && pwd)

# build MODULE PROGRAM PACKAGE [go build flags…]: one program, unless its module has not changed since it was built.
build() {
    module=$1 program=$2 package=$3
    shift 3
    stamp=$(cat "$here/$module/go.mod" "$here/$module/go.sum" "$here/build.sh" | sha256sum | cut -c1-64)
    if [ -x "$out/$program" ] && [ "$(cat "$out/$program.stamp" 2>/dev/null)" = "$stamp" ]; then
        return
    fi
    echo "tools: building $program"
    (cd "$here/$module" && GOFLAGS="-mod=readonly -buildvcs=false" go build -trimpath -o "$out/$program.new" "$@" "$package")
    mv "$out/$program.new" "$out/$program"
    echo "$stamp" >"$out/$program.stamp"
}

for tool in "$@"; do
    case $tool in
    crictl)
        CGO_ENABLED=0 build cri-tools crictl sigs.k8s.io/cri-tools/cmd/crictl \
            -ldflags '-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=v1.36.0'
        ;;
    runc)
        CGO_ENABLED=1 build runc runc github.com/opencontainers/runc \
            -tags seccomp -ldflags '-s -w -X main.version=1.3.3'
        ;;
    containerd)
        for program in containerd containerd-shim-runc-v2; do
            CGO_ENABLED=0 build containerd $program github.com/containerd/containerd/v2/cmd/$program \
                -tags no_btrfs,no_devmapper,no_zfs \
                -ldflags '-s -w -X github.com/containerd/containerd/v2/version.Version=2.4.2'
        done
        ;;
    cni-plugins)
        mkdir -p "$out/cni"
        for plugin in main/bridge main/loopback ipam/host-local meta/portmap; do
            CGO_ENABLED=0 build cni-plugins "cni/${plugin##*/}" \
                github.com/containernetworking/plugins/plugins/$plugin -ldflags '-s -w'
        done
        ;;
    *)
        echo "tools: there is no tool '$tool'; there are: crictl runc containerd cni-plugins" >&2
        exit 2
        ;;
    esac
done
