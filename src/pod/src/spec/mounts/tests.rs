//! Mounts as lines of `destination source options`.

use std::path::{Path, PathBuf};

use model::{ImageSpec, MountSource, NamespaceMode};

use super::*;
use crate::defined_volumes::DefinedVolume;
use crate::spec::fixture::{Fixture, bind};

fn lines(fixture: &Fixture) -> Result<Vec<String>, String> {
    let (mounts, _) = mounts(&fixture.input()).map_err(|e| e.to_string())?;
    let line = |mount: &Mount| {
        format!("{} {} {}", mount.destination.display(), mount.source.display(), mount.options.join(","))
    };
    Ok(mounts.iter().map(line).collect())
}

fn destinations(fixture: &Fixture) -> String {
    let (mounts, _) = mounts(&fixture.input()).unwrap();
    let names: Vec<String> = mounts.iter().map(|mount| mount.destination.display().to_string()).collect();
    names.join(" ")
}

#[test]
fn every_container_has_the_kernels_file_systems_and_the_pods_files() {
    let expect = [
        "/proc proc nosuid,noexec,nodev",
        "/dev tmpfs nosuid,strictatime,mode=755,size=65536k",
        "/sys sysfs nosuid,noexec,nodev,ro",
        "/dev/pts devpts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
        "/dev/mqueue mqueue nosuid,noexec,nodev",
        "/dev/shm /p/shm rbind,rprivate,nosuid,noexec,nodev,rw",
        "/etc/hostname /p/hostname rbind,rprivate,rw",
        "/etc/hosts /p/hosts rbind,rprivate,rw",
        "/etc/resolv.conf /p/resolv.conf rbind,rprivate,rw",
        "/sys/fs/cgroup cgroup nosuid,noexec,nodev,relatime,ro",
    ];
    assert_eq!(lines(&Fixture::default()).unwrap(), expect);
}

#[test]
fn access_follows_privilege_and_the_root() {
    let access = |fixture: &Fixture, at: &str| {
        let (mounts, _) = mounts(&fixture.input()).unwrap();
        let mount = mounts.into_iter().find(|mount| mount.destination == Path::new(at)).unwrap();
        mount.options.into_iter().find(|option| option == "ro" || option == "rw").unwrap()
    };
    let mut fixture = Fixture::default();
    fixture.container.security.privileged = true;
    assert_eq!((access(&fixture, "/sys"), access(&fixture, "/sys/fs/cgroup")), ("rw".into(), "rw".into()));
    let mut fixture = Fixture { cgroup_writable: true, ..Fixture::default() };
    assert_eq!((access(&fixture, "/sys"), access(&fixture, "/sys/fs/cgroup")), ("ro".into(), "rw".into()));
    fixture.container.security.readonly_rootfs = true;
    assert_eq!((access(&fixture, "/etc/hosts"), access(&fixture, "/dev/shm")), ("ro".into(), "rw".into()));
}

#[test]
fn the_hosts_ipc_brings_the_hosts_shared_memory() {
    let mut fixture = Fixture::default();
    fixture.pod.security.namespaces.ipc = NamespaceMode::Node;
    fixture.files.shm = None;
    assert!(lines(&fixture).unwrap().iter().any(|line| line.starts_with("/dev/shm /dev/shm ")));
    fixture.pod.security.namespaces.ipc = NamespaceMode::Pod;
    assert_eq!(
        lines(&fixture).unwrap_err(),
        "the pod's shared memory is missing from the input of the specification"
    );
}

#[test]
fn the_clients_mounts_take_the_place_of_ours() {
    let all = "/proc /dev /sys /dev/pts /dev/mqueue /dev/shm /etc/hostname /etc/hosts /etc/resolv.conf /sys/fs/cgroup";
    let rows = [
        (
            "/etc/hosts",
            "/proc /dev /sys /dev/pts /dev/mqueue /dev/shm /etc/hostname /etc/resolv.conf /etc/hosts /sys/fs/cgroup",
        ),
        ("/dev", "/proc /sys /dev /etc/hostname /etc/hosts /etc/resolv.conf /sys/fs/cgroup"),
        ("/sys/", "/proc /dev /sys /dev/pts /dev/mqueue /dev/shm /etc/hostname /etc/hosts /etc/resolv.conf"),
        (
            "/x/../proc",
            "/dev /sys /proc /dev/pts /dev/mqueue /dev/shm /etc/hostname /etc/hosts /etc/resolv.conf /sys/fs/cgroup",
        ),
        // /etc as a volume does not hide the pod's files: they lie on it.
        ("/etc", &all.replace("/sys /dev", "/sys /etc /dev")),
    ];
    for (at, expect) in rows {
        let mut fixture = Fixture::default();
        fixture.mount(bind(at, "/host"));
        assert_eq!(destinations(&fixture), expect, "{at}");
    }
}

#[test]
fn the_images_volumes_lie_among_ours() {
    let mut fixture = Fixture::default();
    for at in ["/data", "/etc/hosts", "/mine"] {
        fixture.volumes.push(DefinedVolume { container_path: at.into(), source: "/volume".into() });
    }
    fixture.mount(bind("/mine", "/host"));
    let lines = lines(&fixture).unwrap();
    let at =
        |path: &str| lines.iter().filter(|line| line.starts_with(&format!("{path} "))).collect::<Vec<_>>();
    assert_eq!(at("/data"), ["/data /volume rbind,rprivate"]);
    assert_eq!(at("/etc/hosts"), ["/etc/hosts /p/hosts rbind,rprivate,rw"]);
    assert_eq!(at("/mine"), ["/mine /host rbind,rprivate,rw"]);
}

#[test]
fn mounts_are_made_parents_first_and_otherwise_in_their_order() {
    let mut fixture = Fixture::default();
    for at in ["/a/b/c", "/z", "/a", "/a/b", "/z"] {
        fixture.mount(bind(at, "/host"));
    }
    let found = destinations(&fixture);
    let ours: Vec<&str> = found.split(' ').filter(|at| at.starts_with("/a") || *at == "/z").collect();
    assert_eq!(ours, ["/z", "/a", "/z", "/a/b", "/a/b/c"]);
}

#[test]
fn options_are_those_of_the_request() {
    let base = bind("/data", "/host");
    let image = MountSource::Image { image: ImageSpec::default(), sub_path: PathBuf::new() };
    let rows = [
        (base.clone(), "rbind,rprivate,rw", None),
        (model::Mount { readonly: true, ..base.clone() }, "rbind,rprivate,ro", None),
        (
            model::Mount { readonly: true, recursive_read_only: true, ..base.clone() },
            "rbind,rprivate,rro",
            None,
        ),
        (
            model::Mount { propagation: Propagation::HostToContainer, ..base.clone() },
            "rbind,rslave,rw",
            Some("rslave"),
        ),
        (
            model::Mount { propagation: Propagation::Bidirectional, ..base.clone() },
            "rbind,rshared,rw",
            Some("rshared"),
        ),
        (
            model::Mount { options: vec!["noexec".into(), "nodev".into(), "noexec".into()], ..base.clone() },
            "rbind,rprivate,rw,noexec,nodev",
            None,
        ),
        (model::Mount { source: image, ..base.clone() }, "rbind,rprivate,ro,nosuid,nodev,noexec", None),
    ];
    for (mount, options, root) in rows {
        let mut fixture = Fixture::default();
        fixture.mount(mount.clone());
        let expect = format!("/data /host {options}");
        assert!(lines(&fixture).unwrap().contains(&expect), "{mount:?}: {:?}", lines(&fixture));
        assert_eq!(root_propagation(&fixture.input()).as_deref(), root, "{mount:?}");
    }
}

#[test]
fn a_mount_that_holds_the_services_own_directories_lets_unmounts_in() {
    for (source, expect) in [("/", "rslave"), ("/var/lib", "rslave"), ("/var/lib/gantline/x", "rprivate")] {
        let mut fixture = Fixture::default();
        fixture.defaults.own_directories = vec!["/var/lib/gantline".into(), "/run/gantline".into()];
        fixture.mount(bind("/host", source));
        assert!(lines(&fixture).unwrap().contains(&format!("/host {source} rbind,{expect},rw")), "{source}");
    }
}

#[test]
fn what_the_source_refuses_is_refused_in_the_container() {
    let rows: [(&[&str], bool, &str); 3] = [
        (&["nosuid", "noexec"], false, "rw,nosuid,noexec"),
        (&["ro", "nodev"], false, "ro,nodev"),
        (&["nosuid"], true, "ro,nosuid"),
    ];
    for (kept, readonly, expect) in rows {
        let mut fixture = Fixture::default();
        fixture.mount(model::Mount { readonly, ..bind("/data", "/host") });
        fixture.mounts[0].kept = kept.to_vec();
        assert!(
            lines(&fixture).unwrap().contains(&format!("/data /host rbind,rprivate,{expect}")),
            "{kept:?}"
        );
    }
}

#[test]
fn mounts_that_cannot_be_are_named() {
    let base = bind("/data", "/host");
    let rows = [
        (bind("data", "/host"), "container_path: \"data\" is not absolute"),
        (bind("/", "/host"), "container_path: \"/\" is the root file system"),
        (bind("/a/..", "/host"), "container_path: \"/a/..\" is the root file system"),
        (model::Mount { recursive_read_only: true, ..base.clone() }, "recursive_read_only: needs readonly"),
        (
            model::Mount {
                recursive_read_only: true,
                readonly: true,
                propagation: Propagation::HostToContainer,
                ..base.clone()
            },
            "recursive_read_only: needs private propagation",
        ),
        (
            model::Mount { options: vec!["suid".into()], ..base.clone() },
            "mount_options[0]: \"suid\" is not noexec, nodev or nosuid",
        ),
        (
            model::Mount {
                uid_mappings: vec![model::IdMapping { host_id: 1, container_id: 0, length: 1 }],
                ..base.clone()
            },
            "gidMappings: is empty, and uidMappings is not",
        ),
    ];
    for (mount, expect) in rows {
        let mut fixture = Fixture::default();
        fixture.mount(mount);
        assert_eq!(lines(&fixture).unwrap_err(), format!("mounts[0].{expect}"));
    }
}

#[test]
fn recursive_read_only_without_support_has_the_kubelets_word() {
    use model::{Classify as _, CriToken, ErrorKind};
    let mut fixture = Fixture::default();
    fixture.host.recursive_read_only = false;
    fixture.mount(model::Mount { recursive_read_only: true, readonly: true, ..bind("/data", "/host") });
    let error = mounts(&fixture.input()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Token(CriToken::RroUnsupported));
}

fn ids(container_id: u32, host_id: u32, length: u32) -> Vec<model::IdMapping> {
    vec![model::IdMapping { host_id, container_id, length }]
}

fn mapped(mount: model::Mount, mapping: &[model::IdMapping]) -> model::Mount {
    model::Mount { uid_mappings: mapping.to_vec(), gid_mappings: mapping.to_vec(), ..mount }
}

fn own_user(fixture: &mut Fixture, mapping: &[model::IdMapping]) {
    let own = model::UserNamespace { uids: mapping.to_vec(), gids: mapping.to_vec() };
    fixture.pod.security.namespaces.user = Some(model::UserMode::Pod(own));
}

#[test]
fn id_mapped_mounts_are_the_runtimes_and_image_volumes_are_mapped_already() {
    let (base, own) = (bind("/data", "/host"), ids(0, 65_536, 65_536));
    let image = MountSource::Image { image: model::ImageSpec::default(), sub_path: PathBuf::new() };
    let image = model::Mount { source: image, ..base.clone() };
    let twice = [ids(0, 7, 10), ids(9, 100, 1)].concat();
    let onto_one = [ids(0, 7, 10), ids(10, 7, 1)].concat();
    let of_pod = "mounts[0].uidMappings: an image volume has the ids of the pod's own user namespace alone";
    // able handler, the mount, whether the OCI mount is mapped
    let rows = [
        (true, mapped(base.clone(), &own), Ok(true)),
        (true, mapped(base.clone(), &[ids(0, 7, 10), ids(10, 100, 1)].concat()), Ok(true)),
        (true, base.clone(), Ok(false)),
        (false, base.clone(), Ok(false)),
        (
            false,
            mapped(base.clone(), &own),
            Err("mounts[0].uidMappings: the runtime handler or this kernel makes no id-mapped mounts"),
        ),
        (true, mapped(base.clone(), &twice), Err("mounts[0].uidMappings: maps an id twice")),
        (true, mapped(base, &onto_one), Err("mounts[0].uidMappings: maps an id twice")),
        (true, mapped(image.clone(), &own), Ok(false)),
        (true, image.clone(), Ok(false)),
        (true, mapped(image, &ids(0, 7, 1)), Err(of_pod)),
    ];
    for (able, mount, expect) in rows {
        let mut fixture = Fixture::default();
        own_user(&mut fixture, &own);
        fixture.container.mounts.clear();
        fixture.mount(mount.clone());
        let mut input = fixture.input();
        input.handler.id_mapped_mounts = able;
        let found = mounts(&input).map_err(|e| e.to_string());
        let is_mapped = found.map(|(mounts, _)| {
            let data = mounts.into_iter().find(|m| m.destination == Path::new("/data")).unwrap();
            let (users, groups) = (!data.uid_mappings.is_empty(), !data.gid_mappings.is_empty());
            assert_eq!((users, groups), (data.options.contains(&"ridmap".to_owned()), users));
            users
        });
        assert_eq!(is_mapped, expect.map_err(str::to_owned), "{mount:?}");
    }
}

#[test]
fn what_a_user_namespace_cannot_mount_is_bound_or_left() {
    let line = |change: &dyn Fn(&mut Fixture), rro: bool, at: &str| {
        let mut fixture = Fixture::default();
        change(&mut fixture);
        let mut input = fixture.input();
        input.handler.recursive_read_only = rro;
        let (mounts, _) = mounts(&input).unwrap();
        let found = mounts.into_iter().find(|mount| mount.destination == Path::new(at)).unwrap();
        format!("{} {}", found.kind, found.options.join(","))
    };
    let own = |length| move |fixture: &mut Fixture| own_user(fixture, &ids(0, 65_536, length));
    let hosts = |fixture: &mut Fixture| {
        own_user(fixture, &ids(0, 65_536, 65_536));
        fixture.pod.security.namespaces.network = NamespaceMode::Node;
    };
    assert_eq!(line(&own(65_536), true, "/sys"), "sysfs nosuid,noexec,nodev,ro");
    assert_eq!(line(&hosts, true, "/sys"), "bind rbind,rprivate,nosuid,noexec,nodev,rro");
    assert_eq!(line(&hosts, false, "/sys"), "bind rbind,rprivate,nosuid,noexec,nodev,ro");
    let terminals = "devpts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620";
    assert_eq!(line(&own(6), true, "/dev/pts"), format!("{terminals},gid=5"));
    assert_eq!(line(&own(5), true, "/dev/pts"), terminals);
}
