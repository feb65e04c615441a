//! Drop-ins of the peer's systemd unit: the proxies that images are pulled through, and what else they set
//! (systemd.unit(5), systemd.exec(5)).

use std::path::{Path, PathBuf};

use toml::Value;

use super::document::{At, Leaf};
use super::{Outcome, Work, Written, left, needless};

const DIRECTORIES: [&str; 4] =
    ["/usr/lib/systemd/system", "/lib/systemd/system", "/run/systemd/system", "/etc/systemd/system"];
/// As Go's programs read them, and Gantline too (ADR 113).
const PROXIES: [&str; 4] = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"];
/// Where ours goes: it holds what may be a password.
const WRITTEN: &str = "systemd/gantline.service.d/proxy.conf";

/// Reads the drop-ins. Returns ours, when there is anything to say in it.
pub(super) fn of(work: &mut Work<'_>, read: &mut Vec<PathBuf>) -> Option<Written> {
    let unit = if work.peer == super::containerd::NAME { "containerd" } else { "crio" };
    let mut lines = Vec::new();
    let mut seen: Vec<PathBuf> = Vec::new();
    for directory in DIRECTORIES {
        for path in work.files.list(&Path::new(directory).join(format!("{unit}.service.d"))) {
            // /lib is a link to /usr/lib on most systems: each file is told once.
            let place = work.files.find(&path);
            if path.extension().is_none_or(|extension| extension != "conf")
                || place.is_none()
                || seen.contains(&place.clone().unwrap_or_default())
            {
                continue;
            }
            seen.extend(place);
            let Ok(Some(text)) = work.files.read(&path) else { continue };
            for (index, line) in text.lines().enumerate() {
                one(work, &path, index + 1, line.trim(), &mut lines);
            }
            read.push(path);
        }
    }
    if lines.is_empty() {
        return None;
    }
    let text = format!(
        "# Made by `gantline migrate`. Belongs into /etc/systemd/system/gantline.service.d/.\n[Service]\n{}\n",
        lines.join("\n")
    );
    Some(Written { path: WRITTEN.into(), text, private: true })
}

fn one(work: &mut Work<'_>, path: &Path, number: usize, line: &str, lines: &mut Vec<String>) {
    let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with(['#', ';', '['])) else {
        return;
    };
    let leaf = Leaf {
        path: vec![key.trim().to_owned()],
        value: Value::String(value.trim().to_owned()),
        at: At::Line(path.to_owned(), number),
    };
    match key.trim() {
        "Environment" => {
            for assignment in assignments(value) {
                let (name, _) = assignment.split_once('=').unwrap_or((&assignment, ""));
                let proxy = PROXIES.contains(&name.to_ascii_uppercase().as_str());
                let leaf = Leaf { path: vec!["Environment".into(), name.to_owned()], ..leaf.clone() };
                let outcome = if proxy {
                    lines.push(format!("Environment=\"{assignment}\""));
                    Outcome::Carried { to: WRITTEN.into() }
                } else {
                    left(
                        "of containerd's or CRI-O's own environment",
                        "set it in a drop-in of gantline.service if Gantline reads it (OTEL_…, proxies)",
                    )
                };
                // A proxy's URL may hold a password.
                work.tell_secret(&leaf, outcome);
            }
        }
        "EnvironmentFile" => work.tell(
            &leaf,
            left("the file is not looked into", "name it in a drop-in of gantline.service if it has proxies"),
        ),
        "ExecStart" | "ExecStartPre" | "Description" | "After" | "Wants" | "Requires" | "Before" => {
            work.tell(&leaf, needless("of the other service's own start"));
        }
        _ => work.tell(
            &leaf,
            left(
                "a setting of the other service's unit",
                "put it into a drop-in of gantline.service if it is still wanted",
            ),
        ),
    }
}

/// `"A=b c" D=e`, less the quotes (systemd.syntax(7)).
fn assignments(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut current = String::new();
    let mut quote = None;
    for c in text.trim().chars() {
        match (c, quote) {
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            (' ' | '\t', None) => found.push(std::mem::take(&mut current)),
            (c, _) => current.push(c),
        }
    }
    found.push(current);
    found.retain(|assignment| !assignment.is_empty());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_taken_apart() {
        let found = assignments(r#""HTTP_PROXY=http://u:p@h:1/" NO_PROXY=a,b 'X=y z'"#);
        assert_eq!(found, ["HTTP_PROXY=http://u:p@h:1/", "NO_PROXY=a,b", "X=y z"]);
    }
}
