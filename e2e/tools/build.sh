#!/bin/sh
# Builds the Go programs that the end-to-end tests drive or compare with, each from a module pinned beside this
# script, into <cargo target dir>/tools. What is up to date is skipped.
#
#   e2e/tools/build.sh crictl critest runc containerd cni-plugins
#   e2e/tools/build.sh criu                     # Debian's package, unpacked
#   e2e/tools/build.sh cluster helm             # kubelet, the control plane, kubectl, etcd, CoreDNS, agnhost; helm
#   e2e/tools/build.sh kubeadm                  # for the machine of e2e/vm/kubeadm.sh
set -eu

here=$(cd "$(dirname "$0")" && pwd)
out="${CARGO_TARGET_DIR:-$here/../../target}/tools"
mkdir -p "$out"
out=$(cd "$out" && pwd)

fail() {
    echo "tools: $*" >&2
    exit 1
}

# at_least HAVE WANT: whether a dotted version is not below another.
at_least() {
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# need_go MODULE: sees that the go command can build a module. One of 1.21 or later fetches the toolchain that go.mod
# asks for by itself, unless GOTOOLCHAIN holds it back.
need_go() {
    want=$(sed -n 's/^go //p' "$here/$1/go.mod")
    if ! command -v go >/dev/null; then
        packaged=$(apt-cache policy golang-go 2>/dev/null | sed -n 's/^ *Candidate: \([0-9]*:\)\{0,1\}\([0-9.]*\).*/\2/p')
        at_least "${packaged:-0}" "$want" ||
            fail "go is missing: unpack Go $want or later into /usr/local/go and put /usr/local/go/bin on the PATH (this system's golang-go package is ${packaged:-absent})"
        echo "tools: installing golang-go"
        DEBIAN_FRONTEND=noninteractive apt-get install -qqy --no-install-recommends golang-go >/dev/null ||
            fail "apt-get could not install golang-go"
    fi
    have=$(cd / && go env GOVERSION | sed 's/^go//; s/[^0-9.].*//')
    case $(cd / && go env GOTOOLCHAIN) in
    local | path) enough=$want how=" (or, where the network allows, set GOTOOLCHAIN=auto: it fetches that itself)" ;;
    *) enough=1.21 how= ;;
    esac
    at_least "$have" "$enough" || fail "go is $have, and building $1 needs Go $enough or later: install that$how"
}

# build MODULE PROGRAM PACKAGE [go build flags…]: one program, unless its module has not changed since it was built.
build() { compile build "$@"; }

# build_test MODULE PROGRAM PACKAGE [flags…]: as build, for a program that is a package's tests.
build_test() { compile 'test -c' "$@"; }

compile() {
    # Another run of this script may be at it: then this one waits, and finds it done.
    (flock 9 && compile_alone "$@") 9>"$out/$3.lock"
}

compile_alone() {
    verb=$1 module=$2 program=$3 package=$4
    shift 4
    stamp=$(cat "$here/$module/go.mod" "$here/$module/go.sum" "$here/build.sh" | sha256sum | cut -c1-64)
    if [ -x "$out/$program" ] && [ "$(cat "$out/$program.stamp" 2>/dev/null)" = "$stamp" ]; then
        return
    fi
    need_go "$module"
    echo "tools: building $program"
    # shellcheck disable=SC2086
    (cd "$here/$module" && GOFLAGS="-mod=readonly -buildvcs=false" go $verb -trimpath -o "$out/$program.new" "$@" "$package")
    mv "$out/$program.new" "$out/$program"
    echo "$stamp" >"$out/$program.stamp"
}

# kubernetes PROGRAM…: programs of Kubernetes, which say their version as a release's do. All that are wanting are built
# by one call, so that one is linked while another is compiled.
kubernetes() {
    (flock 9 && kubernetes_alone "$@") 9>"$out/kubernetes.lock"
}

kubernetes_alone() {
    stamp=$(cat "$here/kubernetes/go.mod" "$here/kubernetes/go.sum" "$here/build.sh" | sha256sum | cut -c1-64)
    packages='' missing=''
    for program in "$@"; do
        if [ -x "$out/$program" ] && [ "$(cat "$out/$program.stamp" 2>/dev/null)" = "$stamp" ]; then
            continue
        fi
        case $program in
        agnhost) packages="$packages k8s.io/kubernetes/test/images/agnhost" ;;
        *) packages="$packages k8s.io/kubernetes/cmd/$program" ;;
        esac
        missing="$missing $program"
    done
    [ -n "$missing" ] || return 0
    need_go kubernetes
    echo "tools: building$missing"
    version=$(sed -n 's/^require k8s.io\/kubernetes //p; s/^\tk8s.io\/kubernetes \(v[^ ]*\).*/\1/p' "$here/kubernetes/go.mod" | head -n 1)
    minor=${version#v1.}
    of=k8s.io/component-base/version
    mkdir -p "$out/kubernetes.new"
    # shellcheck disable=SC2086
    (cd "$here/kubernetes" && CGO_ENABLED=0 GOFLAGS="-mod=readonly -buildvcs=false" \
        go build -trimpath -o "$out/kubernetes.new/" -ldflags \
        "-s -w -X $of.gitVersion=$version -X $of.gitMajor=1 -X $of.gitMinor=${minor%%.*} -X $of.gitTreeState=clean" \
        $packages)
    for program in $missing; do
        mv "$out/kubernetes.new/$program" "$out/$program"
        echo "$stamp" >"$out/$program.stamp"
    done
    rmdir "$out/kubernetes.new"
}

for tool in "$@"; do
    case $tool in
    crictl)
        CGO_ENABLED=0 build cri-tools crictl sigs.k8s.io/cri-tools/cmd/crictl \
            -ldflags '-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=v1.36.0'
        ;;
    critest)
        CGO_ENABLED=0 build_test cri-tools critest sigs.k8s.io/cri-tools/cmd/critest \
            -ldflags '-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=v1.36.0'
        # What critest runs in parallel under.
        CGO_ENABLED=0 build cri-tools ginkgo github.com/onsi/ginkgo/v2/ginkgo -ldflags '-s -w'
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
    criu)
        # Debian 13's with its libraries, unpacked and not installed: Debian 12's does not know kernels since 6.5.
        if [ ! -x "$out/criu/criu" ]; then
            echo "tools: unpacking criu"
            rm -rf "$out/criu.new"
            mkdir "$out/criu.new"
            if ! mmdebstrap --quiet --variant=extract --include=criu trixie "$out/criu.new/root" 2>"$out/criu.new/log"; then
                tail -n 15 "$out/criu.new/log" >&2
                fail "mmdebstrap could not fetch criu"
            fi
            cat >"$out/criu.new/criu" <<'END'
#!/bin/sh
# Runs it with its own loader and libraries.
root=$(dirname "$(readlink -f "$0")")/root
libraries=$(dirname "$(find "$root/usr/lib" -name libprotobuf-c.so.1)")
loader=$(find "$root/usr/lib64" "$root/usr/lib" -name 'ld-linux-*' -print -quit 2>/dev/null)
exec "$loader" --argv0 criu --library-path "$libraries" "$root/usr/sbin/criu" "$@"
END
            chmod 755 "$out/criu.new/criu"
            rm -rf "$out/criu"
            mv "$out/criu.new" "$out/criu"
        fi
        ;;
    cluster)
        CGO_ENABLED=0 build etcd etcd go.etcd.io/etcd/server/v3 -ldflags '-s -w'
        kubernetes kubelet kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubectl agnhost
        CGO_ENABLED=0 build coredns coredns . -ldflags '-s -w'
        ;;
    kubeadm)
        kubernetes kubeadm
        ;;
    helm)
        version=$(sed -n 's/^.*helm.sh\/helm\/v3 \(v[^ ]*\).*/\1/p' "$here/helm/go.mod" | head -n 1)
        minor=$(sed -n 's/^.*k8s.io\/client-go v0\.\([0-9]*\)\..*/\1/p' "$here/helm/go.mod" | head -n 1)
        of=helm.sh/helm/v3
        CGO_ENABLED=0 build helm helm $of/cmd/helm -ldflags "-s -w -X $of/internal/version.version=$version \
            -X $of/pkg/chartutil.k8sVersionMajor=1 -X $of/pkg/chartutil.k8sVersionMinor=$minor \
            -X $of/pkg/lint/rules.k8sVersionMajor=1 -X $of/pkg/lint/rules.k8sVersionMinor=$minor"
        ;;
    *)
        echo "tools: there is no tool '$tool'; there are: crictl critest runc containerd cni-plugins criu cluster kubeadm helm" >&2
        exit 2
        ;;
    esac
done
