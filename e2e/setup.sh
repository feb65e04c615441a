#!/bin/sh
# Makes this machine able to build and test Gantline: Debian packages by name, and a look at cargo.
# `setup.sh package` also installs what the tests of the Debian package take.
# Go is looked for where it is used, by e2e/tools/build.sh.
# Does nothing, quickly, when all is there.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")

fail() {
    echo "setup: $*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || fail "this needs root: pods are made of namespaces, mounts and cgroups. Run it with sudo, or in a virtual machine."
command -v dpkg-query >/dev/null || fail "this set-up knows Debian and its kin only; install what \`packages\` in e2e/setup.sh names by hand."

# What is built with: gcc, pkg-config, libseccomp-dev (gantline and runc). What pods need: crun, containernetworking-plugins, iptables.
# What the tests drive and look with: the rest. busybox is the dynamic one, busybox-static would not do;
# protobuf-compiler is for the independent CRI client of rpc's tests, openssl and skopeo for the image room's;
# mmdebstrap fetches packages of another release without installing them.
packages="gcc libc6-dev make pkg-config libseccomp-dev git
    crun runc containernetworking-plugins iptables
    docker-registry busybox curl nftables iproute2 procps util-linux ca-certificates
    protobuf-compiler openssl skopeo mmdebstrap"

# The package: debhelper builds it; lintian, man and mandoc look at it; mmdebstrap makes roots to install it in.
[ "${1:-}" != package ] || packages="$packages debhelper lintian man-db mandoc mmdebstrap"

missing=
for package in $packages; do
    case $(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null || true) in
    ii*) ;;
    *) missing="$missing $package" ;;
    esac
done
if [ -n "$missing" ]; then
    echo "setup: installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    # Packaged daemons need not start: the tests start their own registry.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
        trap 'rm -f $policy' EXIT
    fi
    # shellcheck disable=SC2086
    if ! { apt-get update -q && apt-get install -qy --no-install-recommends $missing; } >"$log" 2>&1; then
        tail -n 15 "$log" >&2
        fail "apt-get could not install$missing"
    fi
    rm -f "$log"
fi

# Prometheus of Debian's package, unpacked and not installed: nothing of it is to run on this machine by itself.
tools=${CARGO_TARGET_DIR:-$root/target}/tools
if [ ! -x "$tools/prometheus" ] || [ ! -x "$tools/promtool" ]; then
    echo "setup: unpacking prometheus"
    mkdir -p "$tools"
    unpacked=$(mktemp -d "$tools/prometheus.XXXXXX")
    # apt-get drops its rights for a download where it can; this directory is ours alone.
    fetched() { (cd "$unpacked" && apt-get -o APT::Sandbox::User=root download -q prometheus) >"$unpacked/log" 2>&1; }
    if ! { fetched || { apt-get update -q >/dev/null 2>&1 && fetched; }; } || ! dpkg -x "$unpacked"/*.deb "$unpacked"; then
        tail -n 15 "$unpacked/log" >&2
        rm -rf "$unpacked"
        fail "apt-get could not download prometheus"
    fi
    mv "$unpacked/usr/bin/prometheus" "$unpacked/usr/bin/promtool" "$tools"
    rm -rf "$unpacked"
fi

# at_least HAVE WANT: whether a dotted version is not below another.
at_least() {
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
how='install it with rustup (the package rustup of Debian 13 and later, or as rustup says itself), then `rustup default stable`'
command -v cargo >/dev/null || fail "cargo is missing; Gantline needs Rust $rust or later: $how"
have=$(cd "$root" && cargo --version | cut -d ' ' -f 2)
at_least "${have%%-*}" "$rust" || fail "cargo is $have, Gantline needs Rust $rust or later: $how; one that is there: \`rustup update stable\`"

# crun refuses a machine with cgroup v1 whose v2 hierarchy still holds a controller. Where that is hugetlb, mounting its
# v1 hierarchy takes it away from there, until the next reboot.
cgroups=/sys/fs/cgroup
if [ -d $cgroups/memory ] && grep -qs hugetlb $cgroups/unified/cgroup.controllers && ! mountpoint -q $cgroups/hugetlb; then
    mkdir -p $cgroups/hugetlb
    mount -t cgroup -o hugetlb hugetlb $cgroups/hugetlb
fi
