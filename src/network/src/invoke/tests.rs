//! Plugins that misbehave, as small shell scripts.

use super::*;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

struct Script(tempfile::TempDir);

impl Script {
    fn new(body: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugin");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(dir)
    }

    async fn run(&self, input: &str, deadline: Duration) -> Result<String, PluginError> {
        self.asked_to("ADD", input, deadline).await
    }

    async fn asked_to(&self, word: &str, input: &str, deadline: Duration) -> Result<String, PluginError> {
        let variables = [("CNI_COMMAND", OsString::from(word))];
        let printed = run(&self.0.path().join("plugin"), &variables, input.as_bytes(), deadline).await;
        printed.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    async fn error(&self) -> String {
        model::chain(&self.run("{}", Duration::from_secs(10)).await.unwrap_err())
    }
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_plugin_has_its_input_its_variables_and_a_path() {
    let script =
        Script::new(r#"read -r line; echo "$line $CNI_COMMAND $PWD ${NOTIFY_SOCKET:-none} ${PATH:+path}""#);
    assert_eq!(script.run("hello\n", LONG).await.unwrap(), "hello ADD / none path\n");
}

#[tokio::test]
async fn failures_are_told_in_the_plugins_own_words() {
    for (body, expected) in [
        (
            r#"echo '{"cniVersion":"1.0.0","code":7,"msg":"bad config","details":"no subnet"}'; exit 1"#,
            "bad config: no subnet (CNI code 7)",
        ),
        (
            r#"echo '{"code":11,"msg":"later"}'; echo busy >&2; exit 1"#,
            "later (CNI code 11); standard error: busy",
        ),
        (
            "echo oops >&2; exit 3",
            "ended with exit status: 3 and no CNI error, nothing was printed; standard error: oops",
        ),
        ("echo rubbish; exit 1", "ended with exit status: 1 and no CNI error, printed: rubbish"),
        ("kill -TERM $$", "ended with signal: 15 (SIGTERM) and no CNI error, nothing was printed"),
    ] {
        assert_eq!(Script::new(body).error().await, expected, "{body}");
    }
}

/// Until a script has written its pid down.
async fn begun(script: &Script) -> Pid {
    let file = script.0.path().join("plugin.pid");
    let gives_up = Instant::now() + Duration::from_secs(20);
    loop {
        assert!(Instant::now() < gives_up, "it did not begin");
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        if let Some(pid) = text.strip_suffix('\n') {
            return Pid::from_raw(pid.parse().unwrap()).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_plugin_that_does_not_end_is_killed_with_all_it_started() {
    let script = Script::new("echo $$ >\"$0.pid\"; (sleep 1000; sleep 1000) & sleep 1000");
    let began = Instant::now();
    let error = script.run("{}", Duration::from_secs(3)).await.unwrap_err();
    assert!(matches!(error, PluginError::Deadline { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(30));
    assert_no_group_left(begun(&script).await).await;
}

#[tokio::test]
async fn a_plugin_nobody_waits_for_any_more_is_killed() {
    let script = Script::new("echo $$ >\"$0.pid\"; sleep 1000 & sleep 1000");
    let group = tokio::select! {
        ended = script.asked_to("STATUS", "{}", LONG) => panic!("{ended:?}"),
        group = begun(&script) => group,
    };
    assert_no_group_left(group).await;
}

#[tokio::test]
async fn an_add_nobody_waits_for_any_more_goes_on_to_its_end() {
    let script = Script::new("echo $$ >\"$0.pid\"; sleep 0.5; echo done >\"$0.done\"");
    tokio::select! {
        ended = script.run("{}", LONG) => panic!("{ended:?}"),
        _ = begun(&script) => {}
    }
    let done = script.0.path().join("plugin.done");
    let began = Instant::now();
    while !done.exists() {
        assert!(began.elapsed() < Duration::from_secs(10), "it was killed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn assert_no_group_left(group: Pid) {
    for _ in 0..100 {
        if rustix::process::test_kill_process_group(group).is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("process group {group:?} is still there");
}

#[tokio::test]
async fn what_a_plugin_left_behind_does_not_hold_its_result_up() {
    let script = Script::new("echo '{}'; sleep 5 &");
    let begun = Instant::now();
    assert_eq!(script.run("{}", LONG).await.unwrap(), "{}\n");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_flood_is_bounded_and_large_inputs_do_not_block() {
    let flood = Script::new("head -c 3000000 /dev/zero");
    assert_eq!(flood.error().await, "printed more than 1048576 bytes");
    let deaf = Script::new("echo '{}'");
    assert_eq!(deaf.run(&"x".repeat(1 << 20), LONG).await.unwrap(), "{}\n");
    let noisy = Script::new("head -c 300000 /dev/zero >&2; cat >/dev/null; echo '{}'");
    assert_eq!(noisy.run(&"x".repeat(1 << 20), LONG).await.unwrap(), "{}\n");
}

#[test]
fn a_missing_plugin_names_the_directories() {
    let error = find("bridge", &["/nowhere".into(), "/nor/here".into()]).unwrap_err();
    assert_eq!(error.to_string(), "no such plugin in /nowhere, /nor/here");
    assert_eq!(
        find("bridge", &[]).unwrap_err().to_string(),
        "no such plugin in an empty list of plugin directories"
    );
}

#[test]
fn quotes_are_the_last_of_many_words_in_one_line() {
    assert_eq!(quote(b"one\n\n  two\n"), "one; two");
    let long = quote("é".repeat(2000).as_bytes());
    assert!(long.starts_with('…') && long.len() <= QUOTE_BYTES_MAX + 3);
}
