#!/bin/sh
# Inside the machine, systemd is pid 1: the Debian package from its installation to its purge, with a pod that runs all the
# time; then a reboot between. `run.sh deb` lays out what it needs beside it: packages, an image in a registry's storage,
# crictl. It is run again after the reboot, and goes on there.
set -eu
here=/mnt/target
# What a boot leaves to the next one.
kept=$here/kept
image=127.0.0.1:5000/busybox:1
export LC_ALL=C.UTF-8 SYSTEMD_COLORS=0 DEBIAN_FRONTEND=noninteractive

# The machine is slow; the deadlines of a real one are another matter.
crictl() { "$here/tools/crictl" --timeout 300s "$@"; }
said() { echo "vm-test: deb: $*"; }
fail() {
    said "FAILED: $*"
    exit 1
}
trap '[ $? = 0 ] || journalctl --no-pager --lines=60 -u gantline' EXIT
# within SECONDS WHAT COMMAND…: the command's success, awaited.
within() {
    seconds=$1 what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        seconds=$((seconds - 1))
        [ $seconds -gt 0 ] || fail "not in time: $what"
        sleep 1
    done
}
install() { apt-get install -qy --no-install-recommends "$here/deb/$1.deb" >/tmp/apt.log 2>&1 || fail "apt-get install $1: $(cat /tmp/apt.log)"; }
property() { systemctl show --property "$1" --value gantline; }
active() { [ "$(property ActiveState)" = active ]; }
restarted() { active && [ "$(property MainPID)" != "$1" ] && crictl pods; }

# What a machine has, a line each; less what changes by itself, what dpkg and apt write down for themselves, and what the
# reference CNI plugins keep on purpose for the next pod: their bridge, their chains, and the address given last.
everything() {
    find / -xdev \( -path /proc -o -path /sys -o -path /mnt -o -path /dev -o -path /tmp -o -path /var/lib/dpkg \
        -o -path /var/lib/apt -o -path /var/log -o -path /var/cache -o -path /var/lib/cni/networks \
        -o -path /var/lib/systemd -o -path '/var/tmp/systemd-private-*' \) -prune -o -printf 'file %y %m %p\n'
    find /run -xdev \( -path /run/systemd -o -path /run/log -o -path /run/udev \) -prune -o -printf 'file %y %p\n'
    find /var/lib/systemd/deb-systemd-helper* 2>/dev/null | sed 's/^/file /'
    find /var/lib/cni/networks -name '[0-9]*' 2>/dev/null | sed 's/^/address /'
    # Systemd's own come and go.
    find /sys/fs/cgroup -type d | grep -v -E '/vm-test.service|/user.slice|/system.slice/systemd-' | sed 's/^/cgroup /'
    awk '{ print "mount", $5 }' /proc/self/mountinfo
    ip -o link | awk '{ print "link", $2 }' | grep -v ' gantline0:'
    { iptables-save; ip6tables-save; } | grep -v '^#' | sed 's/\[.*\]//; s/^/rule /' |
        grep -v -E 'rule [*:C]|-A CNI-HOSTPORT-(MASQ|SETMARK) |-A (OUTPUT|PREROUTING|POSTROUTING) .*-j CNI-HOSTPORT-'
    ps -e -o comm= | grep -E 'gantline|crun|conmon' | sed 's/^/process /' || true
    grep -s '^gantline' /sys/kernel/security/apparmor/profiles | sed 's/^/profile /' || true
}
nothing_left() {
    everything | sort >/tmp/after
    # The directory of the plugins stays with what is in it.
    left=$(diff $kept/before /tmp/after | grep '^[<>]' | grep -v '> file d 755 /var/lib/cni$') || true
    [ -z "$left" ] || fail "left by $1, or gone with it:
$left"
}

# run_pod [ATTEMPT]
run_pod() {
    cat >/tmp/pod.json <<-POD
		{"metadata": {"name": "web", "namespace": "default", "uid": "u1", "attempt": ${1:-0}}, "log_directory": "/tmp/logs",
		 "port_mappings": [{"container_port": 80, "host_port": 8080, "protocol": 0}], "linux": {"cgroup_parent": "kubepods.slice"}}
	POD
    cat >/tmp/container.json <<-POD
		{"metadata": {"name": "c", "attempt": 0}, "image": {"image": "$image"}, "log_path": "c.log", "linux": {},
		 "command": ["/bin/busybox", "sh", "-c", "while :; do echo tick; /bin/busybox sleep 1; done"]}
	POD
    crictl pull "$image" >/dev/null
    pod=$(crictl runp /tmp/pod.json)
    container=$(crictl create "$pod" /tmp/container.json /tmp/pod.json)
    crictl start "$container" >/dev/null
    pid=$(crictl inspect --output go-template --template '{{.info.pid}}' "$container")
    [ "$pid" -gt 1 ] || fail "the container's pid is $pid"
}
# The very process is there, writes on, and answers.
runs_on() {
    [ -d "/proc/$pid" ] || fail "$1: the container's process is gone"
    lines=$(wc -l </tmp/logs/c.log)
    within 30 "$1: the container writes no log any more" more_than "$lines"
}
more_than() { [ "$(wc -l </tmp/logs/c.log)" -gt "$1" ]; }
container_state() { crictl inspect --output go-template --template '{{.status.state}}' "$1"; }
answers() {
    runs_on "$1"
    state=$(container_state "$container")
    [ "$state" = CONTAINER_RUNNING ] || fail "$1: the container is $state"
    [ "$(crictl exec -s "$container" /bin/busybox echo hello)" = hello ] || fail "$1: exec"
}

# The other services of this boot have started, or failed, as far as they will: what waits is this script's own.
booted() { [ "$(systemctl list-jobs --no-legend | grep -c ' running$')" = 1 ]; }
# The address, links, mounts, namespaces, cgroups and rules of pods.
of_pods() {
    find /var/lib/cni/networks -name '[0-9]*' 2>/dev/null
    find /run/netns -mindepth 1 2>/dev/null
    awk '{ print "mount", $5 }' /proc/self/mountinfo | grep -E ' /(run/netns|run/gantline|var/lib/gantline)/'
    find /sys/fs/cgroup -path '*kubepods*/*' -type d
    ip -o link | grep -o 'veth[^ :@]*'
    iptables-save | grep 'dport 8080 '
}
nothing_of_pods() { [ -z "$(of_pods)" ]; }
pod_state() { crictl inspectp --output go-template --template '{{.status.state}}' "$1"; }

after_the_reboot() {
    [ "$(cat $kept/boot)" != "$(cat /proc/sys/kernel/random/boot_id)" ] || fail "this is the boot of before"
    # Nobody here has started it, nor asked it anything before it is judged.
    active || fail "after the reboot the service is $(property ActiveState)"
    # The container does not heed SIGTERM: the shim gives it ten seconds, systemd would give it ninety.
    down=$(($(awk '/^btime/ { print $2 }' /proc/stat) - $(cat $kept/down)))
    [ $down -lt 80 ] || fail "the machine took $down s to go down"
    said "reboot: the machine went down in $down s with the pod running"
    [ "$(property StatusText)" = serving ] || fail "it said $(property StatusText)"
    [ "$(property NRestarts)" = 0 ] || fail "it had to be restarted"
    said "reboot: systemd has started the service, which is active by sd_notify"

    old=$(cat $kept/pod)
    [ "$(crictl pods -q)" = "$old" ] || fail "after the reboot it names these pods, not $old: $(crictl pods)"
    within 300 "what the reboot left of the pod is undone: $(of_pods)" nothing_of_pods
    [ "$(pod_state "$old")" = SANDBOX_NOTREADY ] || fail "the pod of before the reboot is $(pod_state "$old")"
    [ "$(crictl ps -a -q)" = "$(cat $kept/container)" ] || fail "its containers are $(crictl ps -a)"
    [ "$(container_state "$(cat $kept/container)")" = CONTAINER_EXITED ] || fail "its container did not exit: $(crictl ps -a)"
    said "reboot: the pod is named, not ready, its container exited; its address and all else of it is released"

    # As a kubelet does: the next one beside the dead one, which goes later.
    run_pod 1
    answers "a pod after the reboot"
    crictl rmp "$old" >/dev/null
    [ "$(crictl pods -q)" = "$pod" ] || fail "after the old pod's removal there are $(crictl pods)"
    answers "after the old pod's removal"
    said "reboot: a new pod runs, the old one is removed"

    apt-get purge -qy gantline >/tmp/apt.log 2>&1 || fail "apt-get purge: $(cat /tmp/apt.log)"
    nothing_left "a purge after a reboot"
    said "purge after a reboot: nothing is left"
}

mkdir -p $kept
within 300 "the machine has started" booted
docker-registry serve "$here/registry.yml" >/tmp/registry.log 2>&1 &
mkdir -p /tmp/logs
case $(cat $kept/stage 2>/dev/null) in
'')
    echo begun >$kept/stage
    # A panic shall find it.
    sync
    ;;
reboot)
    echo rebooted >$kept/stage
    after_the_reboot
    exit
    ;;
*) fail "the machine has rebooted by itself" ;;
esac

mkdir -p /etc/cni/net.d
cp "$here/10-bridge.conflist" /etc/cni/net.d/
everything | sort >$kept/before

install old
active || fail "after the installation the service is $(property ActiveState)"
[ "$(property Type) $(property NotifyAccess) $(property Delegate) $(property KillMode)" = "notify main yes process" ] || fail "the unit is another"
[ "$(property StatusText)" = serving ] || fail "it said $(property StatusText)"
[ "$(systemctl is-enabled gantline)" = enabled ] || fail "it does not start at boot"
systemd-analyze verify --man=no gantline.service || fail "systemd-analyze verify"
[ -n "$(grep -s '^gantline-default ' /sys/kernel/security/apparmor/profiles)" ] || fail "the AppArmor profile is not loaded"
said "installed: active by sd_notify, enabled; systemd-analyze security: $(systemd-analyze security --no-pager gantline.service 2>/dev/null | grep -oE '[0-9.]+ [A-Z]+' | tail -n 1)"

run_pod
answers "a pod"
said "a pod runs, by crictl with the package's own configuration"

main=$(property MainPID)
systemctl restart gantline
within 60 "systemctl restart starts another" restarted "$main"
answers "after systemctl restart"
said "systemctl restart: the pod runs on"

main=$(property MainPID)
echo '# mine' >>/etc/gantline/config.toml
install new
[ "$(dpkg-query -W -f '${Version}' gantline)" = "$(dpkg-deb -f $here/deb/new.deb Version)" ] || fail "the upgrade"
within 60 "the upgrade restarts the service" restarted "$main"
tail -n 1 /etc/gantline/config.toml | grep -q mine || fail "the upgrade changed a configuration that was edited"
answers "after an upgrade"
said "upgrade: the service is the new one, the pod runs on, the edited configuration stays"

# The unit's own 30 s, shorter: that this is what restarts it is seen by a service that stops and gets no signal.
mkdir -p /run/systemd/system/gantline.service.d
printf '[Service]\nWatchdogSec=15\n' >/run/systemd/system/gantline.service.d/test.conf
systemctl daemon-reload
systemctl restart gantline
main=$(property MainPID)
kill -STOP "$main"
within 120 "the watchdog restarts a stopped service" restarted "$main"
journalctl -u gantline --no-pager | grep -q 'Watchdog timeout' || fail "it was not the watchdog"
answers "after the watchdog"
rm -r /run/systemd/system/gantline.service.d
systemctl daemon-reload
said "watchdog: a service that hangs is restarted, the pod runs on"

main=$(property MainPID)
kill -KILL "$main"
within 60 "systemd restarts a killed service" restarted "$main"
answers "after SIGKILL"
said "SIGKILL: restarted, the pod runs on"

apt-get remove -qy gantline >/tmp/apt.log 2>&1 || fail "apt-get remove: $(cat /tmp/apt.log)"
grep -q 'pod default/web' /tmp/apt.log || fail "the removal does not say which pods are left: $(cat /tmp/apt.log)"
[ ! -e /usr/bin/gantline ] && [ -e /etc/gantline/config.toml ] && [ -d /var/lib/gantline ] || fail "remove"
! systemctl is-active -q gantline || fail "the removed service runs"
runs_on "after apt-get remove"
said "remove: service and programs are gone, state and configuration stay; it names the pod, which runs on"

apt-get purge -qy gantline >/tmp/apt.log 2>&1 || fail "apt-get purge: $(cat /tmp/apt.log)"
[ ! -d "/proc/$pid" ] || fail "purged, and the container runs"
nothing_left "a purge after a removal"
said "purge after a removal: the pod is ended; no file, mount, namespace, cgroup, address or rule is left"

install new
run_pod
answers "another pod"
apt-get purge -qy gantline >/tmp/apt.log 2>&1 || fail "apt-get purge: $(cat /tmp/apt.log)"
nothing_left "a purge"
said "purge at once: the same"

install new
run_pod
answers "a pod to reboot with"
cp /proc/sys/kernel/random/boot_id $kept/boot
echo "$pod" >$kept/pod
echo "$container" >$kept/container
[ -n "$(of_pods)" ] || fail "what is looked for after the reboot is not there before it"
echo reboot >$kept/stage
said "rebooting"
date +%s >$kept/down
systemctl reboot
sleep 600
fail "systemctl reboot: the machine is still there"
