//! The chart's alerts, by promtool: each fires on its own trouble and no other does.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use e2e::programs::tool;

fn rules_file() -> PathBuf {
    e2e::installer::chart().join("rules/gantline.yaml")
}

/// What makes each alert fire: series that are bad for two hours, in promtool's notation.
const BAD: [(&str, &[(&str, &str)]); 19] = [
    ("GantlineDown", &[("up{job=\"gantline\"}", "0x120")]),
    ("GantlineRestartsOften", &[("gantline_process_start_time_seconds", "1+60x120")]),
    ("GantlineRuntimeNotReady", &[("gantline_condition{condition=\"RuntimeReady\"}", "0x120")]),
    ("GantlineNetworkNotReady", &[("gantline_condition{condition=\"NetworkReady\"}", "0x120")]),
    (
        "GantlineRequestsFail",
        &[
            ("gantline_operation_duration_seconds_count{rpc=\"PullImage\",code=\"INTERNAL\"}", "0+2x120"),
            ("gantline_operation_duration_seconds_count{rpc=\"PullImage\",code=\"OK\"}", "0+5x120"),
        ],
    ),
    ("GantlineStageHangs", &[("gantline_stage_oldest_seconds{stage=\"cni_add\"}", "0+60x120")]),
    ("GantlineCniFails", &[("gantline_cni_errors_total{plugin=\"bridge\"}", "0+1x120")]),
    ("GantlineCniDelsOwed", &[("gantline_cni_dels_owed", "1x120")]),
    (
        "GantlinePullsFail",
        &[
            ("gantline_pulls_total{outcome=\"failed\"}", "0+3x120"),
            ("gantline_pulls_total{outcome=\"ok\"}", "0+1x120"),
        ],
    ),
    (
        "GantlineDiskAlmostFull",
        &[("gantline_disk_available_bytes", "5x120"), ("gantline_disk_size_bytes", "100x120")],
    ),
    (
        "GantlineInodesAlmostUsedUp",
        &[("gantline_disk_inodes_free", "1x120"), ("gantline_disk_inodes", "100x120")],
    ),
    ("GantlineLogsDropped", &[("gantline_log_dropped_bytes_total", "0+1x120")]),
    ("GantlineEventsOverflow", &[("gantline_event_overflows_total", "0+1x120")]),
    ("GantlineShimsLost", &[("gantline_shims_lost", "1x120")]),
    ("GantlineRecordsUnreadable", &[("gantline_records_unreadable", "1x120")]),
    (
        "GantlineStoreSlow",
        &[
            ("gantline_store_commit_duration_seconds_bucket{store=\"pod\",le=\"0.5\"}", "0+1x120"),
            ("gantline_store_commit_duration_seconds_bucket{store=\"pod\",le=\"1.0\"}", "0+10x120"),
            ("gantline_store_commit_duration_seconds_bucket{store=\"pod\",le=\"+Inf\"}", "0+10x120"),
        ],
    ),
    ("GantlineRecoverySlow", &[("gantline_recovery_duration_seconds", "61x120")]),
    (
        "GantlineFilesAlmostUsedUp",
        &[("gantline_process_open_fds", "900x120"), ("gantline_process_max_fds", "1000x120")],
    ),
    ("GantlineContainersOutOfMemory", &[("gantline_container_exits_total{reason=\"OOMKilled\"}", "0+1x120")]),
];

#[test]
fn each_alert_fires_on_its_trouble_alone() {
    let rules = fs::read_to_string(rules_file()).unwrap();
    let alerts: BTreeSet<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert_eq!(
        alerts,
        BAD.iter().map(|(alert, _)| *alert).collect(),
        "an alert without a trouble, or the reverse"
    );
    let mut tests = String::new();
    for (alert, series) in BAD {
        tests.push_str("- interval: 1m\n  input_series:\n");
        for (series, values) in series {
            tests.push_str(&format!("  - {{series: '{series}', values: '{values}'}}\n"));
        }
        let firing = |what: &str| format!("count(ALERTS{{{what},alertstate=\"firing\"}}) or vector(0)");
        let (its, others) =
            (firing(&format!("alertname={alert:?}")), firing(&format!("alertname!={alert:?}")));
        tests.push_str("  promql_expr_test:\n");
        for (expression, value) in [(its, 1), (others, 0)] {
            tests.push_str(&format!(
                "  - {{expr: '{expression}', eval_time: 2h, exp_samples: [{{labels: '{{}}', value: {value}}}]}}\n"
            ));
        }
    }
    let dir = std::env::temp_dir().join(format!("gantline-rules-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let file = dir.join("tests.yaml");
    fs::write(&file, format!("rule_files: [{:?}]\nevaluation_interval: 1m\ntests:\n{tests}", rules_file()))
        .unwrap();
    let said = e2e::command::run(e2e::command::command(tool("promtool")).args(["test", "rules"]).arg(&file));
    fs::remove_dir_all(&dir).unwrap();
    said.ok();
    let checked = e2e::command::command(tool("promtool")).args(["check", "rules"]).arg(rules_file()).output();
    assert!(checked.unwrap().status.success());
}
