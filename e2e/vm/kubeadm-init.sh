#!/bin/sh
# Inside the machine of kubeadm.sh, started by systemd: a node as docs/operations.md makes one, step by step.
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
here=/mnt/target
failed=
began=$(cut -d. -f1 /proc/uptime)
say() { echo "vm-test: $(($(cut -d. -f1 /proc/uptime) - began)) s: $*"; }
# step NAME COMMAND…: runs a step, and goes on when it fails.
step() {
    name=$1
    shift
    say "$name"
    if "$@"; then say "$name: passed"; else
        say "$name: FAILED"
        failed="$failed $name"
    fi
}

say "$(. /etc/os-release && echo "$PRETTY_NAME"), Linux $(uname -r), pid 1 is $(cat /proc/1/comm)"
# The machine has no network card: an address to be known by, and a route that leads nowhere.
hostname node1
echo "192.168.77.2 node1" >>/etc/hosts
ip link set lo up
ip link add eth0 type dummy
ip addr add 192.168.77.2/24 dev eth0
ip link set eth0 up
ip route add default via 192.168.77.1
# CoreDNS wants somebody to ask what it does not know, though nobody answers there.
echo "nameserver 192.168.77.1" >/etc/resolv.conf
modprobe br_netfilter
modprobe overlay
sysctl -q -w net.ipv4.ip_forward=1

# --- what a package would bring ---
install -m 755 $here/bin/* /usr/local/bin/
mkdir -p /opt/cni/bin /etc/cni/net.d /etc/gantline/certs.d/registry.k8s.io
install -m 755 $here/cni/* /opt/cni/bin/
cp $here/10-bridge.conflist /etc/cni/net.d/
cp $here/gantline.service /etc/systemd/system/
cat >/etc/systemd/system/kubelet.service <<UNIT
[Unit]
After=gantline.service
[Service]
Environment=KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
ExecStart=/usr/local/bin/kubelet \$KUBELET_KUBECONFIG_ARGS \$KUBELET_CONFIG_ARGS \$KUBELET_KUBEADM_ARGS
Restart=always
RestartSec=10
[Install]
WantedBy=multi-user.target
UNIT

# --- a registry of the machine's own, instead of the world's ---
cat >/tmp/registry.yml <<YML
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $here/storage}}
http: {addr: '127.0.0.1:5000'}
YML
OTEL_TRACES_EXPORTER=none docker-registry serve /tmp/registry.yml >/dev/null 2>&1 &
printf 'server = "http://127.0.0.1:5000"\n' >/etc/gantline/certs.d/registry.k8s.io/hosts.toml

# --- Gantline ---
systemctl daemon-reload
step check gantline check
step service systemctl enable --now gantline
step status gantline status
printf 'runtime-endpoint: unix:///run/gantline/gantline.sock\n' >/etc/crictl.yaml
step crictl crictl version

# --- kubeadm: all waits longer than a machine of its own would need ---
systemctl enable kubelet 2>/dev/null
cat >/tmp/kubeadm.yaml <<YML
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: 192.168.77.2}
nodeRegistration: {criSocket: "unix:///run/gantline/gantline.sock", name: node1, taints: []}
timeouts: {controlPlaneComponentHealthCheck: 40m0s, kubeletHealthCheck: 20m0s, kubernetesAPICall: 20m0s, etcdAPICall: 20m0s, tlsBootstrap: 20m0s}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: v1.37.1
networking: {podSubnet: 10.85.0.0/16}
# An emulated machine does not renew a lease in the ten seconds that are usual; there is nobody to take it over.
controllerManager: {extraArgs: [{name: leader-elect, value: "false"}]}
scheduler: {extraArgs: [{name: leader-elect, value: "false"}]}
---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
runtimeRequestTimeout: 10m0s
YML
step pull kubeadm config images pull --config /tmp/kubeadm.yaml
crictl images
step preflight kubeadm init phase preflight --config /tmp/kubeadm.yaml
(while sleep 120; do crictl ps -a && crictl stats; done) &
watcher=$!
step init kubeadm init --config /tmp/kubeadm.yaml --skip-token-print
kill $watcher
export KUBECONFIG=/etc/kubernetes/admin.conf
crictl ps -a
grep -rn containerRuntimeEndpoint /var/lib/kubelet/*.yaml
step ready kubectl wait --for=condition=Ready node/node1 --timeout=40m
kubectl get nodes -o wide
step accounts kubectl wait --for=create serviceaccount/default --timeout=40m
# A pod of an image that is here: the API server's own, asked for its version.
image=$(crictl images -o json | sed -n 's/.*"\(registry.k8s.io\/kube-scheduler:[^"]*\)".*/\1/p' | head -n 1)
step pod kubectl run hello --image="$image" --image-pull-policy=IfNotPresent --restart=Never --command -- kube-scheduler --version
step hello kubectl wait --for=jsonpath='{.status.phase}'=Succeeded pod/hello --timeout=30m
step logs kubectl logs hello
kubectl get pods -A -o wide
step proxy kubectl -n kube-system rollout status daemonset/kube-proxy --timeout=30m
step dns kubectl -n kube-system rollout status deployment/coredns --timeout=10m
gantline status
if [ -n "$failed" ]; then
    crictl ps -a
    kubectl -n kube-system logs kube-controller-manager-node1 --tail=30
    kubectl -n kube-system logs -l k8s-app=kube-dns --prefix --tail=20
    kubectl -n kube-system describe pods -l k8s-app=kube-dns | tail -n 40
    journalctl -u kubelet --no-pager | tail -n 40
    journalctl -u gantline --no-pager | tail -n 40
fi
step reset kubeadm reset --force --cri-socket unix:///run/gantline/gantline.sock
crictl pods
if [ -z "$failed" ]; then echo "vm-test: all passed"; else echo "vm-test: failed:$failed"; fi
sync
echo o >/proc/sysrq-trigger
sleep 100
