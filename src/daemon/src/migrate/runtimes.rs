//! The table of OCI runtimes: which handlers can be had, by which binary, and with whose cgroup driver.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use toml::Value;

use super::document::Leaf;
use super::rules::says_nothing;
use super::{Outcome, Work, left, needless};
use crate::files::Files;

/// Where services find programs when systemd starts them (systemd.exec(5)).
const PATH: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The binary of a bare name, or nothing.
fn in_path(files: &Files, name: &str) -> Option<String> {
    let candidates = PATH.iter().map(|directory| format!("{directory}/{name}"));
    candidates.into_iter().find(|candidate| files.is_executable(Path::new(candidate)))
}

/// RuntimeClass.handler (Kubernetes API): a DNS label.
fn is_handler(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// The values of one handler by the rest of their keys.
type Handler<'a> = BTreeMap<String, &'a Leaf>;

fn handlers<'a>(leaves: &'a [Leaf], prefix: &[&str]) -> BTreeMap<String, Handler<'a>> {
    let mut handlers: BTreeMap<String, Handler<'a>> = BTreeMap::new();
    for leaf in leaves {
        let Some((head, rest)) = leaf.path.split_at_checked(prefix.len()) else { continue };
        let (true, Some((name, rest))) = (head == prefix, rest.split_first()) else { continue };
        handlers.entry(name.clone()).or_default().insert(rest.join("."), leaf);
    }
    handlers
}

fn text<'a>(handler: &Handler<'a>, key: &str) -> &'a str {
    handler.get(key).and_then(|leaf| leaf.value.as_str()).unwrap_or_default()
}

/// Says of a handler that it is not carried over: once, at its type where that is why it is known, else at each key.
fn leave_out(work: &mut Work<'_>, name: &str, handler: &Handler<'_>, by_type: bool, why: &str) {
    for (key, leaf) in handler {
        let outcome = match key == "runtime_type" || !by_type {
            true => left(why, OTHER_NODE),
            false => needless(format!("of handler {name}, which is not carried over")),
        };
        work.tell(leaf, outcome);
    }
}

/// Names a handler's binary in the draft, and says what came of it.
fn name_binary(work: &mut Work<'_>, name: &str, binary: &str, leaf: &Leaf) -> Option<Outcome> {
    let path = if binary.starts_with('/') { Some(binary.to_owned()) } else { in_path(work.files, binary) };
    let Some(path) = path else {
        return Some(left(
            format!("{binary} is not installed in {}", PATH.join(", ")),
            format!("install it, and set runtimes.{name}.path"),
        ));
    };
    work.draft.set(&["runtimes", name, "path"], Value::String(path), &leaf.at.to_string());
    None
}

const NOT_A_SHIM: &str = "is a containerd shim, and Gantline runs OCI runtimes by their command line alone";
const OTHER_NODE: &str = "keep pods of this RuntimeClass on other nodes (scheduling.nodeSelector)";

/// containerd's table.
pub(super) fn of_containerd(work: &mut Work<'_>, leaves: &[Leaf]) {
    let default =
        leaves.iter().rfind(|leaf| leaf.path.last().is_some_and(|key| key == "default_runtime_name"));
    let default_name = default.and_then(|leaf| leaf.value.as_str()).unwrap_or("runc").to_owned();
    let mut carried = BTreeSet::new();
    for (name, handler) in handlers(leaves, &["cri", "containerd", "runtimes"]) {
        let kind = text(&handler, "runtime_type");
        let refused = match kind {
            _ if !is_handler(&name) => Some("is no name that a RuntimeClass could have".to_owned()),
            "" | "io.containerd.runc.v2" | "io.containerd.runc.v1" | "io.containerd.runtime.v1.linux" => None,
            other => Some(format!("{other} {NOT_A_SHIM}")),
        };
        let refused = refused.or_else(|| {
            let path = text(&handler, "runtime_path");
            (!path.is_empty()).then(|| format!("{path} {NOT_A_SHIM}"))
        });
        if let Some(why) = refused {
            leave_out(work, &name, &handler, handler.contains_key("runtime_type"), &why);
            continue;
        }
        let binary = match text(&handler, "options.BinaryName") {
            "" => match text(&handler, "runtime_engine") {
                "" => "runc",
                engine => engine,
            },
            binary => binary,
        };
        // Whichever line is there to name.
        let by =
            ["options.BinaryName", "runtime_engine", "runtime_type"].iter().find_map(|key| handler.get(*key));
        let fault = by.or(handler.values().next()).and_then(|leaf| name_binary(work, &name, binary, leaf));
        if fault.is_none() {
            carried.insert(name.clone());
        }
        for (key, leaf) in &handler {
            let outcome = match (key.as_str(), &fault) {
                ("runtime_type", Some(fault)) => fault.clone(),
                _ => containerd_key(work, &name, key, leaf, name == default_name),
            };
            work.tell(leaf, outcome);
        }
    }
    if let Some(leaf) = default {
        default_runtime(work, leaf, &default_name, &carried);
    }
}

fn default_runtime(work: &mut Work<'_>, leaf: &Leaf, name: &str, carried: &BTreeSet<String>) {
    if carried.contains(name) {
        work.carry(leaf, &["default_runtime"], Value::String(name.into()));
    } else {
        work.tell(
            leaf,
            left(
                format!("handler {name} is not carried over"),
                "choose another default_runtime: pods without a RuntimeClass use it",
            ),
        );
    }
}

fn flag(work: &mut Work<'_>, name: &str, key: &'static str, leaf: &Leaf) -> Outcome {
    match leaf.value.as_bool() {
        Some(true) => {
            work.draft.set(&["runtimes", name, key], Value::Boolean(true), &leaf.at.to_string());
            Outcome::Carried { to: format!("runtimes.{name}.{key} = true") }
        }
        _ => needless("Gantline's default is the same"),
    }
}

fn containerd_key(work: &mut Work<'_>, name: &str, key: &str, leaf: &Leaf, default: bool) -> Outcome {
    let unless_set = |why: &str, remedy: &str| {
        let usual = says_nothing(&leaf.value) || matches!(leaf.value.to_string().as_str(), "false" | "0");
        if usual { needless(why) } else { left("Gantline does not do this", remedy) }
    };
    match key {
        "runtime_type" => needless("Gantline's own shim does what this one does"),
        "options.BinaryName" | "runtime_engine" if says_nothing(&leaf.value) => {
            needless("the binary is looked for by its name")
        }
        "options.BinaryName" | "runtime_engine" => Outcome::Carried { to: format!("runtimes.{name}.path") },
        "privileged_without_host_devices" => flag(work, name, "privileged_without_host_devices", leaf),
        "cgroup_writable" => flag(work, name, "cgroup_writable", leaf),
        "privileged_without_host_devices_all_devices_allowed" => {
            flag(work, name, "privileged_without_host_devices_all_devices_allowed", leaf)
        }
        "options.SystemdCgroup" if default => {
            let driver = if leaf.value.as_bool() == Some(true) { "systemd" } else { "cgroupfs" };
            work.draft.set(&["cgroup", "driver"], Value::String(driver.into()), &leaf.at.to_string());
            Outcome::Carried { to: format!("cgroup.driver = \"{driver}\"") }
        }
        "options.SystemdCgroup" => needless("one driver serves all handlers: the default one's"),
        "pod_annotations" | "container_annotations" => unless_set(
            "is not set",
            "annotations of pods do not reach the OCI runtime, but for containerd's usual ones",
        ),
        "base_runtime_spec" => unless_set(
            "is not set",
            "specifications are Gantline's own; say what pods need in their securityContext",
        ),
        "cni_conf_dir" | "cni_max_conf_num" => {
            unless_set("is not set", "all handlers share one network list")
        }
        "snapshotter" => unless_set(
            "images are unpacked for overlayfs",
            "Gantline knows overlayfs alone: pods of this handler use that",
        ),
        "sandboxer" | "sandbox_mode" if matches!(leaf.value.as_str(), Some("" | "podsandbox")) => {
            needless("sandboxes are Gantline's own")
        }
        "sandboxer" | "sandbox_mode" => left("sandboxes are Gantline's own", OTHER_NODE),
        "io_type" | "disable_pause_image_pull" => needless("logs and streams are the shim's"),
        "runtime_path" | "runtime_root" | "options.Root" => unless_set(
            "state of runtimes is in Gantline's own",
            "state of runtimes is in Gantline's own state directory",
        ),
        "options" => needless("holds nothing"),
        "options.CriuPath" | "options.CriuImagePath" | "options.CriuWorkPath" => {
            needless("CRIU is found by the OCI runtime, and its files are the pod's shim's")
        }
        "options.IoUid"
        | "options.IoGid"
        | "options.ShimCgroup"
        | "options.NoPivotRoot"
        | "options.NoNewKeyring" => unless_set("as Gantline does", "Gantline has no setting for it"),
        _ => left(
            "this version of Gantline does not know the key",
            "look up what it does, and whether pods need it",
        ),
    }
}

/// CRI-O's table.
pub(super) fn of_crio(work: &mut Work<'_>, leaves: &[Leaf]) {
    let handlers = handlers(leaves, &["crio", "runtime", "runtimes"]);
    let default = leaves.iter().rfind(|leaf| leaf.path == ["crio", "runtime", "default_runtime"]);
    let default_name = default.and_then(|leaf| leaf.value.as_str()).unwrap_or_default();
    let mut carried = BTreeSet::new();
    for (name, handler) in &handlers {
        let kind = text(handler, "runtime_type");
        let refused = match kind {
            _ if !is_handler(name) => Some("is no name that a RuntimeClass could have".to_owned()),
            "" | "oci" => None,
            other => Some(format!(
                "runtimes of type {other} are not run: Gantline runs OCI runtimes by their command line alone"
            )),
        };
        if let Some(why) = refused {
            leave_out(work, name, handler, !kind.is_empty(), &why);
            continue;
        }
        let binary = match text(handler, "runtime_path") {
            "" => name.as_str(),
            path => path,
        };
        let fault = handler
            .get("runtime_path")
            .or(handler.values().next())
            .and_then(|leaf| name_binary(work, name, binary, leaf));
        if fault.is_none() {
            carried.insert(name.clone());
        }
        for (key, leaf) in handler {
            let outcome = match (key.as_str(), &fault) {
                ("runtime_path" | "", Some(fault)) => fault.clone(),
                _ => crio_key(work, name, key, leaf),
            };
            work.tell(leaf, outcome);
        }
    }
    // CRI-O knows its default runtime without a table of it.
    if let Some(leaf) = default
        && !default_name.is_empty()
        && !handlers.contains_key(default_name)
    {
        match name_binary(work, default_name, default_name, leaf) {
            None => {
                carried.insert(default_name.to_owned());
            }
            Some(fault) => return work.tell(leaf, fault),
        }
    }
    if let Some(leaf) = default {
        default_runtime(work, leaf, default_name, &carried);
    }
}

fn crio_key(work: &mut Work<'_>, name: &str, key: &str, leaf: &Leaf) -> Outcome {
    let unless_set = |why: &str, remedy: &str| {
        if says_nothing(&leaf.value) || leaf.value.as_bool() == Some(false) {
            needless(why)
        } else {
            left("Gantline does not do this", remedy)
        }
    };
    match key {
        "" => needless("the binary is looked for by its name"),
        "runtime_path" if says_nothing(&leaf.value) => needless("the binary is looked for by its name"),
        "runtime_path" => Outcome::Carried { to: format!("runtimes.{name}.path") },
        "runtime_type" => needless("handlers are OCI runtimes"),
        "privileged_without_host_devices" => flag(work, name, "privileged_without_host_devices", leaf),
        "runtime_root" => needless("state of runtimes is in Gantline's own state directory"),
        "monitor_path" | "monitor_cgroup" | "monitor_env" | "monitor_exec_cgroup" | "no_sync_log" => {
            needless("Gantline's shim is the monitor, in the pod's cgroup")
        }
        "container_create_timeout" => needless("Gantline's own deadlines are fixed"),
        "container_min_memory" => needless("a limit is taken as the pod asks for it"),
        "stream_websockets" => needless("sessions speak SPDY and WebSocket"),
        "runtime_config_path" => unless_set("is not set", OTHER_NODE),
        "runtime_pull_image" => unless_set("images are pulled by Gantline", OTHER_NODE),
        "inherit_default_runtime" => {
            unless_set("is not set", "give the handler the path of the default runtime")
        }
        "allowed_annotations" => unless_set(
            "is not set",
            "CRI-O's annotations are not heeded: say it in the pod's fields (hostUsers, securityContext, resources)",
        ),
        _ if key.starts_with("platform_runtime_paths") => {
            unless_set("is not set", "set the path for this node's platform")
        }
        _ if key.starts_with("default_annotations") => {
            unless_set("is not set", "CRI-O's annotations are not heeded")
        }
        _ => left(
            "this version of Gantline does not know the key",
            "look up what it does, and whether pods need it",
        ),
    }
}
