//! What a container may use after an update: what is asked for over what is, and then what the kernel made of it.

use kernel::cgroup::{Group, Limits, is_weight_of_shares, weight_of_shares};
use model::{HugepageLimit, Resources};

/// What is asked for over what is.
pub(super) fn merged(now: &Resources, wanted: &Resources) -> Resources {
    let number = |wanted: i64, now: i64| if wanted == 0 { now } else { wanted };
    let text = |wanted: &str, now: &str| if wanted.is_empty() { now } else { wanted }.to_owned();
    let mut unified = now.unified.clone();
    unified.extend(wanted.unified.clone());
    let mut hugepage_limits = now.hugepage_limits.clone();
    for asked in &wanted.hugepage_limits {
        match hugepage_limits.iter_mut().find(|known| known.page_size == asked.page_size) {
            Some(known) => known.limit = asked.limit,
            None => hugepage_limits.push(asked.clone()),
        }
    }
    Resources {
        cpu_period: number(wanted.cpu_period, now.cpu_period),
        cpu_quota: number(wanted.cpu_quota, now.cpu_quota),
        cpu_shares: number(wanted.cpu_shares, now.cpu_shares),
        memory_limit: number(wanted.memory_limit, now.memory_limit),
        memory_swap_limit: swap(now, wanted),
        oom_score_adj: number(wanted.oom_score_adj, now.oom_score_adj),
        cpuset_cpus: text(&wanted.cpuset_cpus, &now.cpuset_cpus),
        cpuset_mems: text(&wanted.cpuset_mems, &now.cpuset_mems),
        hugepage_limits,
        unified,
    }
}

/// The sum of memory and swap. Where only memory changes the swap beside it stays as much as it was.
fn swap(now: &Resources, wanted: &Resources) -> i64 {
    let beside = now.memory_swap_limit.saturating_sub(now.memory_limit);
    match (wanted.memory_swap_limit, wanted.memory_limit) {
        (0, memory) if memory > 0 && now.memory_swap_limit > 0 && now.memory_limit > 0 => {
            memory.saturating_add(beside)
        }
        (0, _) => now.memory_swap_limit,
        (sum, _) => sum,
    }
}

/// What a running container may use by the kernel's word: its own rounded or bounded numbers for all that was asked
/// for. What was not asked for stays unset, whatever the kernel has there by default. Blocks for the file reads.
pub(crate) fn actual(asked: &Resources, group: &Group, pid: u32) -> Resources {
    let hugepages = |page: &HugepageLimit| HugepageLimit {
        limit: group.hugepage_limit(&page.page_size).unwrap_or(page.limit),
        page_size: page.page_size.clone(),
    };
    let adjs = group.oom_score_adjs().unwrap_or_default();
    Resources {
        oom_score_adj: match (asked.oom_score_adj, adjs.get(&pid)) {
            (0, _) | (_, None) => asked.oom_score_adj,
            (_, Some(adj)) => (*adj).into(),
        },
        hugepage_limits: asked.hugepage_limits.iter().map(hugepages).collect(),
        unified: asked
            .unified
            .iter()
            .map(|(file, value)| (file.clone(), group_file(group, file, value)))
            .collect(),
        ..bounded(asked, &group.read_limits(), group.is_v2())
    }
}

/// A v2 file that was asked for by its name. One with a line for each device tells of more than was asked for.
fn group_file(group: &Group, file: &str, asked: &str) -> String {
    let text = group.directory("unified").and_then(|dir| std::fs::read_to_string(dir.join(file)).ok());
    let line = text.as_deref().map(str::trim).filter(|text| !text.contains('\n') && !text.contains('='));
    line.unwrap_or(asked).to_owned()
}

/// v2 keeps a weight, from which shares can only be guessed: those that were asked for, if they give this weight.
fn shares(asked: i64, found: Option<u64>, v2: bool) -> i64 {
    let Some(found) = found.filter(|_| asked != 0) else { return asked };
    let is_asked = |asked| v2 && is_weight_of_shares(weight_of_shares(found), asked);
    match u64::try_from(asked) {
        Ok(number) if is_asked(number) => asked,
        _ => i64::try_from(found).unwrap_or(asked),
    }
}

fn bounded(asked: &Resources, found: &Limits, v2: bool) -> Resources {
    let number = |asked: i64, found: Option<i64>| if asked == 0 { 0 } else { found.unwrap_or(asked) };
    let text = |asked: &str, found: &Option<String>| match found {
        Some(found) if !asked.is_empty() => found.clone(),
        _ => asked.to_owned(),
    };
    let signed = |found: Option<u64>| found.and_then(|number| i64::try_from(number).ok());
    let swap_asked = if asked.memory_limit == 0 { asked.memory_swap_limit } else { 1 };
    Resources {
        cpu_period: number(asked.cpu_period, signed(found.cpu_period)),
        cpu_quota: number(asked.cpu_quota, found.cpu_quota),
        cpu_shares: shares(asked.cpu_shares, found.cpu_shares, v2),
        memory_limit: number(asked.memory_limit, found.memory),
        memory_swap_limit: match (swap_asked, found.memory_and_swap) {
            (0, _) | (_, None) => asked.memory_swap_limit,
            (_, Some(sum)) => sum,
        },
        cpuset_cpus: text(&asked.cpuset_cpus, &found.cpuset_cpus),
        cpuset_mems: text(&asked.cpuset_mems, &found.cpuset_mems),
        ..asked.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_stays() {
        let page = |size: &str, limit| HugepageLimit { page_size: size.to_owned(), limit };
        let now = Resources {
            cpu_shares: 512,
            memory_limit: 1 << 20,
            hugepage_limits: vec![page("2MB", 4), page("1GB", 0)],
            ..Resources::default()
        };
        let wanted = Resources {
            memory_limit: 2 << 20,
            cpuset_cpus: "0".to_owned(),
            hugepage_limits: vec![page("1GB", 1 << 30)],
            ..Resources::default()
        };
        let merged = merged(&now, &wanted);
        assert_eq!(
            (merged.cpu_shares, merged.memory_limit, merged.cpuset_cpus.as_str()),
            (512, 2 << 20, "0")
        );
        assert_eq!(merged.hugepage_limits, [page("2MB", 4), page("1GB", 1 << 30)], "each size by itself");
    }

    #[test]
    fn swap_beside_memory_stays_where_memory_alone_changes() {
        // memory and sum now; memory and sum asked for; the sum then
        for (now, wanted, sum) in [
            ((64, 64), (96, 0), 96),
            ((64, 80), (96, 0), 112),
            ((64, 80), (32, 0), 48),
            ((64, -1), (96, 0), -1),
            ((64, 0), (96, 0), 0),
            ((0, 0), (96, 0), 0),
            ((64, 80), (0, 0), 80),
            ((64, 80), (0, 100), 100),
            ((64, 80), (96, 96), 96),
        ] {
            let of = |(memory_limit, memory_swap_limit)| Resources {
                memory_limit,
                memory_swap_limit,
                ..Resources::default()
            };
            assert_eq!(merged(&of(now), &of(wanted)).memory_swap_limit, sum, "{now:?} {wanted:?}");
        }
    }

    #[test]
    fn the_kernels_numbers_are_told_for_what_was_asked_for() {
        let found = Limits {
            cpu_shares: Some(1024),
            cpu_quota: Some(-1),
            cpu_period: Some(100_000),
            memory: Some(4096),
            memory_and_swap: Some(4096),
            cpuset_cpus: Some("0-1".to_owned()),
            ..Limits::default()
        };
        assert_eq!(bounded(&Resources::default(), &found, false), Resources::default());
        let asked = Resources {
            memory_limit: 5000,
            cpu_quota: 50_000,
            cpuset_cpus: "0,1".to_owned(),
            ..Resources::default()
        };
        let told = bounded(&asked, &found, false);
        assert_eq!((told.memory_limit, told.memory_swap_limit), (4096, 4096), "of whole pages, and no swap");
        assert_eq!((told.cpu_quota, told.cpu_period, told.cpuset_cpus.as_str()), (-1, 0, "0-1"));
    }

    #[test]
    fn shares_are_told_as_they_were_asked_for_where_the_weight_is_theirs() {
        // asked for, the shares that the kernel's weight stands for, whether it is a weight; what is told
        for (asked, found, v2, told) in [
            (1024, Some(1024), false, 1024),
            (1, Some(2), false, 2),
            (1024, Some(305), true, 1024),  // 39, by the straight line
            (1000, Some(1011), true, 1000), // 99, by the curve
            (1024, Some(500), true, 500),
            (0, Some(1024), true, 0),
            (512, None, true, 512),
        ] {
            assert_eq!(shares(asked, found, v2), told, "{asked} {found:?} {v2}");
        }
    }
}
