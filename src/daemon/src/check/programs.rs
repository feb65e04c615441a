//! The programs that containers are run with, and what they cannot do.

use super::{Host, Report, kernel_features};
use crate::runtimes;

pub(super) fn check(host: &Host<'_>, report: &mut Report) {
    match runtimes::find(host.config, host.path) {
        Ok(found) => {
            for (name, binary) in &found.handlers {
                let default = if *name == found.default { " (default)" } else { "" };
                match host.probe.version(binary) {
                    Ok(version) => {
                        report.ok("runtimes", format!("{name}{default}: {}, {version}", binary.display()));
                        cannot(host, name, binary, report);
                    }
                    Err(why) => report.fail(
                        "runtimes",
                        format!("{name}{default}: {} --version: {why}", binary.display()),
                        "reinstall the runtime, or take it out of the configuration",
                    ),
                }
            }
        }
        Err(error) => report.fail("runtimes", error.to_string(), "install crun or runc"),
    }
    match runtimes::find_shim(host.config, host.path) {
        Ok(shim) => report.ok("shim", shim.display().to_string()),
        Err(error) => report.fail("shim", error.to_string(), "install the package as a whole: make install"),
    }
}

/// What a runtime lacks that the kernel has: what the kernel lacks is told once, for all of them.
fn cannot(host: &Host<'_>, name: &str, binary: &std::path::Path, report: &mut Report) {
    let features = host.probe.features(binary);
    let kernel = kernel_features::release(host).unwrap_or((u32::MAX, 0));
    let able = features.on_kernel(kernel);
    let lacks: Vec<_> = [
        (able.recursive_read_only || kernel < (5, 12), "recursive read-only mounts"),
        (able.id_mapped_mounts || kernel < (5, 12), "id-mapped mounts"),
        (able.user_namespaces || kernel < (5, 19), "user namespaces"),
    ]
    .into_iter()
    .filter(|(fine, _)| !fine)
    .map(|(_, what)| what)
    .collect();
    if !lacks.is_empty() {
        report.warn(
            "runtimes",
            format!("{name} makes no {}", lacks.join(", ")),
            "pods that ask for them are refused; crun since 1.8.6 and runc since 1.2 can",
        );
    }
}
