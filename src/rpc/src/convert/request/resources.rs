//! LinuxContainerResources to the model.

use api::v1;
use model::{HugepageLimit, Resources};

use crate::convert::invalid::each;
use crate::convert::{Invalid, Under as _};

/// Limits and weights, zero and empty being "not set".
pub(crate) fn resources(from: v1::LinuxContainerResources) -> Result<Resources, Invalid> {
    let v1::LinuxContainerResources {
        cpu_period,
        cpu_quota,
        cpu_shares,
        memory_limit_in_bytes: memory_limit,
        oom_score_adj,
        cpuset_cpus,
        cpuset_mems,
        hugepage_limits,
        unified,
        memory_swap_limit_in_bytes: memory_swap_limit,
    } = from;
    at_least("cpu_period", cpu_period, 0)?;
    at_least("cpu_quota", cpu_quota, -1)?;
    at_least("cpu_shares", cpu_shares, 0)?;
    at_least("memory_limit_in_bytes", memory_limit, 0)?;
    at_least("memory_swap_limit_in_bytes", memory_swap_limit, -1)?;
    if memory_swap_limit > 0 && memory_swap_limit < memory_limit {
        let why =
            format!("{memory_swap_limit} is below memory_limit_in_bytes, {memory_limit}, which it includes");
        return Err(Invalid::new("memory_swap_limit_in_bytes", why));
    }
    if !(-1000..=1000).contains(&oom_score_adj) {
        return Err(Invalid::new("oom_score_adj", format!("{oom_score_adj} is not of -1000 to 1000")));
    }
    cpu_list("cpuset_cpus", &cpuset_cpus)?;
    cpu_list("cpuset_mems", &cpuset_mems)?;
    for (key, value) in &unified {
        let name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_');
        let file = key.contains('.') && !key.starts_with('.') && !key.ends_with('.');
        if !file || !key.bytes().all(|b| name(b) || b.is_ascii_uppercase()) {
            return Err(Invalid::new("unified", format!("{key:?} is not the name of a cgroup v2 file")));
        }
        if value.contains('\0') {
            return Err(Invalid::new("unified", format!("{key:?} has a value with a NUL")));
        }
    }
    Ok(Resources {
        cpu_period,
        cpu_quota,
        cpu_shares,
        memory_limit,
        memory_swap_limit,
        oom_score_adj,
        cpuset_cpus,
        cpuset_mems,
        hugepage_limits: each(hugepage_limits, hugepage_limit).under("hugepage_limits")?,
        unified,
    })
}

fn at_least(field: &str, value: i64, least: i64) -> Result<(), Invalid> {
    match value < least {
        true => Err(Invalid::new(field, format!("{value} is below {least}"))),
        false => Ok(()),
    }
}

fn cpu_list(field: &str, list: &str) -> Result<(), Invalid> {
    let number = |text: &str| text.trim().parse::<u16>().ok();
    let valid = list.is_empty()
        || list.split(',').all(|part| match part.split_once('-') {
            Some((first, last)) => number(first).zip(number(last)).is_some_and(|(first, last)| first <= last),
            None => number(part).is_some(),
        });
    match valid {
        true => Ok(()),
        false => Err(Invalid::new(field, format!("{list:?} is not a list like 0-2,7"))),
    }
}

fn hugepage_limit(from: v1::HugepageLimit) -> Result<HugepageLimit, Invalid> {
    let size = from.page_size.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &from.page_size[size.len()..];
    if size.parse::<u32>().is_err() || !matches!(unit, "KB" | "MB" | "GB") {
        return Err(Invalid::new("page_size", format!("{:?} is not a size like 2MB", from.page_size)));
    }
    Ok(HugepageLimit { page_size: from.page_size, limit: from.limit })
}
