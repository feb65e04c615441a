//! What systemd has to be told where it is the one who makes cgroups (ADR 080): limits of a scope that change, and
//! slices that are no longer needed. The OCI runtime tells it the rest.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use kernel::SysError;
use kernel::cgroup::{Group, Limits};

/// systemctl(1) answers within this time, or systemd is stuck.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// systemctl(1) exits with this for a unit that is not loaded.
const NOT_LOADED: i32 = 5;
/// CFS's period, microseconds, where none is set.
const PERIOD_DEFAULT: u64 = 100_000;

/// Tells systemd of a scope's limits, so that it writes them itself from now on. `cgroup` is the scope's.
///
/// # Errors
/// systemctl could not be run, or refused, or did not answer in time.
pub(crate) fn set_limits(cgroup: &str, limits: &Limits) -> Result<(), SysError> {
    let properties = properties(limits);
    if properties.is_empty() {
        return Ok(());
    }
    let mut args = vec!["set-property".to_owned(), "--runtime".to_owned(), unit(cgroup)];
    args.extend(properties);
    match systemctl(&args)? {
        0 => Ok(()),
        code => Err(failed(&args, io::Error::other(format!("it exits with {code}")))),
    }
}

/// Stops a slice, and removes its group with it: systemd would keep both for ever. One that it does not know is as
/// good. Never for one that something may live in: its units would be stopped with it.
///
/// # Errors
/// As [`set_limits`].
pub(crate) fn forget_slice(slice: &Group) -> Result<(), SysError> {
    let args = ["stop".to_owned(), unit(slice.path())];
    match systemctl(&args)? {
        0 | NOT_LOADED => Ok(()),
        code => Err(failed(&args, io::Error::other(format!("it exits with {code}")))),
    }
}

/// The unit whose group it is: the last part of the path.
fn unit(cgroup: impl AsRef<Path>) -> String {
    cgroup.as_ref().file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// systemd.resource-control(5). What has no property there, or only a rounded one, is written to the files besides.
fn properties(limits: &Limits) -> Vec<String> {
    let bound = |n: i64| if n < 0 { "infinity".to_owned() } else { n.to_string() };
    let mut all = Vec::new();
    let mut set = |name: &str, value: String| all.push(format!("{name}={value}"));
    if let Some(memory) = limits.memory {
        set("MemoryMax", bound(memory));
    }
    match (limits.memory, limits.memory_and_swap) {
        (_, Some(sum)) if sum < 0 => set("MemorySwapMax", bound(sum)),
        (Some(memory), Some(sum)) if memory >= 0 => {
            set("MemorySwapMax", bound(sum.saturating_sub(memory).max(0)))
        }
        _ => {}
    }
    if let Some(shares) = limits.cpu_shares {
        set("CPUWeight", kernel::cgroup::weight_of_shares(shares).to_string());
    }
    if let Some(quota) = limits.cpu_quota {
        let period = limits.cpu_period.unwrap_or(PERIOD_DEFAULT);
        cpu_quota(u64::try_from(quota).ok().filter(|quota| *quota > 0), period, &mut set);
    }
    if let Some(pids) = limits.pids {
        set("TasksMax", bound(pids));
    }
    for (name, list) in [("AllowedCPUs", &limits.cpuset_cpus), ("AllowedMemoryNodes", &limits.cpuset_mems)] {
        if let Some(list) = list {
            set(name, list.clone());
        }
    }
    for (file, value) in &limits.unified {
        unified(file, value, &mut set);
    }
    all
}

/// `quota` microseconds of each `period`; `None` is no limit.
fn cpu_quota(quota: Option<u64>, period: u64, set: &mut impl FnMut(&str, String)) {
    let Some(quota) = quota else { return set("CPUQuota", String::new()) };
    let period = period.max(1);
    // Hundredths of a percent are the finest it knows; rounded up, never below what was asked.
    let hundredths = (u128::from(quota) * 10_000).div_ceil(u128::from(period));
    set("CPUQuota", format!("{}.{:02}%", hundredths / 100, hundredths % 100));
    set("CPUQuotaPeriodSec", format!("{period}us"));
}

/// A v2 file that systemd writes itself; it never touches the others.
fn unified(file: &str, value: &str, set: &mut impl FnMut(&str, String)) {
    let value = value.trim();
    let property = match file {
        "memory.min" => "MemoryMin",
        "memory.low" => "MemoryLow",
        "memory.high" => "MemoryHigh",
        "memory.max" => "MemoryMax",
        "memory.swap.max" => "MemorySwapMax",
        "pids.max" => "TasksMax",
        "cpu.weight" => "CPUWeight",
        "cpuset.cpus" => "AllowedCPUs",
        "cpuset.mems" => "AllowedMemoryNodes",
        "cpu.max" => {
            let (quota, period) = value.split_once(' ').unwrap_or((value, ""));
            return cpu_quota(quota.parse().ok(), period.parse().unwrap_or(PERIOD_DEFAULT), set);
        }
        _ => return,
    };
    set(property, if value == "max" { "infinity" } else { value }.to_owned());
}

/// Runs systemctl(1) to its end and tells its exit code.
fn systemctl(args: &[String]) -> Result<i32, SysError> {
    let mut command = kernel::process::command("systemctl");
    command.env("PATH", "/usr/bin:/bin").args(args).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|e| failed(args, e))?;
    let deadline = Instant::now() + ANSWER_MAX;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status.code().unwrap_or(-1)),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                let late = format!("no answer in {} s", ANSWER_MAX.as_secs());
                return Err(failed(args, io::Error::new(io::ErrorKind::TimedOut, late)));
            }
            Err(error) => return Err(failed(args, error)),
        }
    }
}

fn failed(args: &[String], error: io::Error) -> SysError {
    SysError::named("run", format!("systemctl {}", args.join(" ")), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_properties_of_a_scope() {
        let none = Limits::default;
        let rows = [
            (none(), ""),
            (
                Limits { memory: Some(64), memory_and_swap: Some(96), ..none() },
                "MemoryMax=64 MemorySwapMax=32",
            ),
            (
                Limits { memory: Some(-1), memory_and_swap: Some(-1), ..none() },
                "MemoryMax=infinity MemorySwapMax=infinity",
            ),
            (Limits { cpu_shares: Some(1024), pids: Some(-1), ..none() }, "CPUWeight=100 TasksMax=infinity"),
            (Limits { cpu_quota: Some(80_000), ..none() }, "CPUQuota=80.00% CPUQuotaPeriodSec=100000us"),
            (
                Limits { cpu_quota: Some(10_001), cpu_period: Some(30_000), ..none() },
                "CPUQuota=33.34% CPUQuotaPeriodSec=30000us",
            ),
            (Limits { cpu_quota: Some(-1), ..none() }, "CPUQuota="),
            (
                Limits { cpuset_cpus: Some("0-2".into()), cpuset_mems: Some("0".into()), ..none() },
                "AllowedCPUs=0-2 AllowedMemoryNodes=0",
            ),
            (
                Limits {
                    memory: Some(64),
                    unified: [
                        ("cpu.max", "50000 100000"),
                        ("io.weight", "default 50"),
                        ("memory.high", "48\n"),
                        ("memory.low", "max"),
                        ("pids.max", "max"),
                    ]
                    .map(|(file, value)| (file.to_owned(), value.to_owned()))
                    .into(),
                    ..none()
                },
                "MemoryMax=64 CPUQuota=50.00% CPUQuotaPeriodSec=100000us MemoryHigh=48 MemoryLow=infinity TasksMax=infinity",
            ),
        ];
        for (limits, expect) in rows {
            assert_eq!(properties(&limits).join(" "), expect);
        }
        assert_eq!(unit("/a.slice/a-b.slice/gantline-1.scope"), "gantline-1.scope");
    }
}
