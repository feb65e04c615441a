//! `gantline events`: what happened to pods and containers, and with `-f` what happens.

use tokio::sync::mpsc;

use crate::admin::client;
use crate::admin::events::{EventsBody, Happened, Line};
use crate::exit::Exit;
use crate::flags::{Common, EventsFlags, Format};
use crate::ui;

/// Prints events until the service has no more, or the reader goes away.
pub(crate) fn run(flags: EventsFlags, common: &Common) -> Exit {
    let body = EventsBody { follow: flags.follow };
    let printed = super::ask_service(common, async |socket| {
        let (lines, mut received) = mpsc::channel(16);
        let print = async {
            let mut over = None;
            while let Some(line) = received.recv().await {
                match line {
                    Line::Event(event) => {
                        let shown = match flags.output.output {
                            Format::Text => ui::print_line(ui::for_screen(&text(&event))),
                            Format::Json => ui::print_line(serde_json::json!(event)),
                        };
                        if !shown {
                            break;
                        }
                    }
                    Line::Over(why) => over = Some(why),
                }
            }
            // A reader that went away ends the other half too.
            drop(received);
            over
        };
        let (asked, over) = tokio::join!(client::post::<Line>(socket, "/events", &body, lines), print);
        asked.map(|()| over)
    });
    match printed {
        Ok(None) => Exit::Success,
        Ok(Some(why)) => {
            ui::complain(why);
            Exit::Failure
        }
        Err(exit) => exit,
    }
}

/// `10:00:00.123  stopped  default/web app  0123456789abc  exit 1 (Error)`
fn text(event: &Happened) -> String {
    let time = event.at.get(11..23).unwrap_or(&event.at);
    let who = match &event.container {
        Some(container) => format!("{}/{} {container}", event.namespace, event.pod),
        None => format!("{}/{}", event.namespace, event.pod),
    };
    let id = event.id.get(..13).unwrap_or(&event.id);
    let exit = match (event.exit_code, &event.reason) {
        (Some(code), Some(reason)) => format!("  exit {code} ({reason})"),
        _ => String::new(),
    };
    format!("{time}  {:<7}  {id}  {who}{exit}", event.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = Happened {
            at: "2026-11-21T10:00:00.123456789Z".into(),
            kind: "stopped".into(),
            namespace: "default".into(),
            pod: "web".into(),
            container: Some("app".into()),
            id: "0123456789abcdef".into(),
            exit_code: Some(1),
            reason: Some("Error".into()),
        };
        assert_eq!(text(&event), "10:00:00.123  stopped  0123456789abc  default/web app  exit 1 (Error)");
    }
}
