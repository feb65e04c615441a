//! `gantline why POD`: what a pod waits for, at which stage and since when, and what failed before.

use crate::admin::client;
use crate::admin::story::{Why, WhyBody};
use crate::exit::Exit;
use crate::flags::{Common, Format, WhyFlags};
use crate::ui;

/// Asks the service and prints what it knows.
pub(crate) fn run(flags: WhyFlags, common: &Common) -> Exit {
    let body = WhyBody { pod: flags.pod };
    let asked =
        super::ask_service(common, async |socket| client::ask::<Vec<Why>>(socket, "/why", &body).await);
    let stories = match asked {
        Ok(stories) => stories,
        Err(exit) => return exit,
    };
    if stories.is_empty() {
        ui::complain(format_args!(
            "no pod here is {:?}: name it by id, by namespace/name or by name. \
             Before a pod's sandbox is asked for, the kubelet alone knows of it",
            body.pod
        ));
        return Exit::Failure;
    }
    match flags.output.output {
        Format::Json => ui::print(serde_json::json!(stories)),
        Format::Text => {
            let told: Vec<String> = stories.iter().map(text).collect();
            ui::print(ui::for_screen(&told.join("\n")));
        }
    }
    Exit::Success
}

fn text(why: &Why) -> String {
    let mut out = format!("{}/{}: {}", why.namespace, why.name, why.state);
    if let Some(ms) = why.age_ms {
        out.push_str(&format!(", {} old", ui::duration(ms / 1000)));
    }
    out.push('\n');
    let rows: Vec<_> = why
        .containers
        .iter()
        .map(|member| vec!["  container".to_owned(), member.name.clone(), member.state.clone()])
        .collect();
    out.push_str(&ui::table(&rows));
    for work in &why.doing {
        let container = work.container.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
        let callers = match work.callers {
            0 => String::new(),
            1 => ", 1 caller waits".to_owned(),
            more => format!(", {more} callers wait"),
        };
        out.push_str(&format!(
            "  doing: {}{container} for {}{callers}\n",
            work.what,
            ui::seconds(work.for_ms)
        ));
    }
    for stage in &why.stages {
        out.push_str(&format!("    at stage {} for {}\n", stage.stage, ui::seconds(stage.for_ms)));
    }
    if why.queued > 0 {
        out.push_str(&format!("  {} more requests wait their turn\n", why.queued));
    }
    if why.doing.is_empty() && why.queued == 0 {
        out.push_str("  nothing is under way: it waits for nothing here\n");
    }
    for failure in &why.troubles {
        let container = failure.container.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
        let at = failure.at.get(..19).unwrap_or(&failure.at);
        out.push_str(&format!("  failed {at}Z: {}{container}: {}\n", failure.what, failure.message));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::story::{Failure, Member, Stage, Work};

    #[test]
    fn a_pod_that_hangs_says_where() {
        let why = Why {
            namespace: "default".into(),
            name: "web".into(),
            uid: "u".into(),
            id: Some("ab".repeat(32)),
            state: "ready".into(),
            age_ms: Some(61_000),
            containers: vec![Member { name: "app".into(), id: "cd".repeat(32), state: "running".into() }],
            doing: vec![Work {
                what: "start".into(),
                container: Some("side".into()),
                for_ms: 12_345,
                callers: 2,
            }],
            stages: vec![Stage { stage: "oci_run".into(), for_ms: 12_300 }],
            queued: 0,
            troubles: vec![Failure {
                at: "2026-11-21T10:00:00.123456789Z".into(),
                what: "start".into(),
                container: Some("side".into()),
                message: "no such file".into(),
            }],
        };
        assert_eq!(
            text(&why),
            "default/web: ready, 1m 1s old\n  \
             container  app  running\n  \
             doing: start side for 12.3 s, 2 callers wait\n    \
             at stage oci_run for 12.3 s\n  \
             failed 2026-11-21T10:00:00Z: start side: no such file\n"
        );
    }
}
