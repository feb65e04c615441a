//! The container's process: arguments, environment, working directory, limits.

use std::path::{Path, PathBuf};

use super::oci::{self, Capabilities, Process};
use super::{SpecError, SpecInput, security};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
pub(super) const TERM: &str = "xterm";

pub(super) fn process(input: &SpecInput<'_>, capabilities: Capabilities) -> Result<Process, SpecError> {
    let security = &input.container.security;
    Ok(Process {
        terminal: input.container.tty,
        user: oci::User {
            uid: input.user.uid,
            gid: input.user.gid,
            additional_gids: input.user.additional_gids.clone(),
        },
        args: args(input)?,
        env: env(input)?,
        cwd: cwd(input)?,
        capabilities: Some(capabilities),
        rlimits: input.defaults.rlimits.iter().map(|limit| input.host.clamp_rlimit(limit)).collect(),
        no_new_privileges: security.no_new_privs,
        apparmor_profile: security::apparmor(input)?,
        oom_score_adj: Some(oom_score_adj(input)?),
        selinux_label: input.labels()?.map(|labels| labels.process),
    })
}

/// `command` replaces the image's entry point and drops its cmd; `args` alone replaces the cmd.
fn args(input: &SpecInput<'_>) -> Result<Vec<String>, SpecError> {
    let (container, image) = (input.container, input.image);
    let (command, args) = match (container.command.is_empty(), container.args.is_empty()) {
        (false, _) => (&container.command, &container.args),
        (true, false) => (&image.entrypoint, &container.args),
        (true, true) => (&image.entrypoint, &image.cmd),
    };
    let argv: Vec<String> = command.iter().chain(args).cloned().collect();
    match argv.first() {
        None => Err(SpecError::invalid("command", "no command specified, and the image names none")),
        Some(first) if first.is_empty() => Err(SpecError::invalid("command", "the command's name is empty")),
        Some(_) if argv.iter().any(|arg| arg.contains('\0')) => {
            Err(SpecError::invalid("command", "an argument holds a NUL byte"))
        }
        Some(_) => Ok(argv),
    }
}

/// PATH, TERM and HOSTNAME of our own, then the image's variables, then the container's; a later one takes the place
/// of an earlier one of the same name.
fn env(input: &SpecInput<'_>) -> Result<Vec<String>, SpecError> {
    let mut env = Environment::default();
    env.set("PATH", PATH);
    if input.container.tty {
        env.set("TERM", TERM);
    }
    if !input.hostname.is_empty() {
        env.set("HOSTNAME", input.hostname);
    }
    for entry in &input.image.env {
        match entry.split_once('=') {
            Some((key, value)) if !key.is_empty() && !entry.contains('\0') => env.set(key, value),
            // A name without a value is how an image takes a variable away.
            None if !entry.is_empty() => env.unset(entry),
            _ => return Err(SpecError::invalid("image.config.env", format!("{entry:?} is not KEY=value"))),
        }
    }
    for (n, (key, value)) in input.container.envs.iter().enumerate() {
        let invalid = |part: &str, why: &str| Err(SpecError::invalid(format!("envs[{n}].{part}"), why));
        if key.is_empty() {
            return invalid("key", "is empty");
        }
        if key.contains(['=', '\0']) {
            return invalid("key", &format!("{key:?} holds a '=' or a NUL byte"));
        }
        match std::str::from_utf8(value) {
            Ok(text) if !text.contains('\0') => env.set(key, text),
            Ok(_) => return invalid("value", &format!("of {key}: holds a NUL byte")),
            Err(_) => {
                return invalid(
                    "value",
                    &format!("of {key}: is not UTF-8, which an OCI specification needs"),
                );
            }
        }
    }
    Ok(env.0)
}

fn cwd(input: &SpecInput<'_>) -> Result<PathBuf, SpecError> {
    let (asked, image) = (&input.container.working_dir, &input.image.working_dir);
    if asked.contains('\0') || image.contains('\0') {
        return Err(SpecError::invalid("working_dir", "holds a NUL byte"));
    }
    if asked.is_empty() {
        // Image builders allow relative ones: they are below `/`.
        return Ok(Path::new("/").join(image));
    }
    if !asked.starts_with('/') {
        return Err(SpecError::invalid("working_dir", format!("{asked:?} is not absolute")));
    }
    Ok(PathBuf::from(asked))
}

fn oom_score_adj(input: &SpecInput<'_>) -> Result<i32, SpecError> {
    let asked = input.container.resources.oom_score_adj;
    let valid = i32::try_from(asked).ok().filter(|adj| (-1000..=1000).contains(adj));
    let adj = valid.ok_or_else(|| {
        SpecError::invalid("linux.resources.oom_score_adj", format!("{asked} is not within -1000 to 1000"))
    })?;
    // runc and crun die of an EACCES here; a container that is killed a little sooner is better than none.
    Ok(adj.max(input.host.oom_score_adj_min))
}

/// Variables in the order in which they first appeared.
#[derive(Default)]
pub(super) struct Environment(pub(super) Vec<String>);

impl Environment {
    fn position(&self, key: &str) -> Option<usize> {
        self.0.iter().position(|entry| entry.split_once('=').is_some_and(|(known, _)| known == key))
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.position(key).is_some()
    }

    pub(super) fn set(&mut self, key: &str, value: &str) {
        let entry = format!("{key}={value}");
        match self.position(key) {
            Some(place) => self.0[place] = entry,
            None => self.0.push(entry),
        }
    }

    fn unset(&mut self, key: &str) {
        if let Some(place) = self.position(key) {
            self.0.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::fixture::Fixture;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn arguments_are_merged_as_cri_says() {
        // image's entry point and cmd; container's command and args; what runs
        let rows = [
            ("entry", "cmd", "", "", "entry cmd"),
            ("entry", "cmd", "", "args", "entry args"),
            ("entry", "cmd", "command", "", "command"),
            ("entry", "cmd", "command", "args", "command args"),
            ("entry", "", "", "", "entry"),
            ("", "cmd more", "", "", "cmd more"),
            ("", "cmd", "", "args", "args"),
            ("", "", "command", "args", "command args"),
            ("", "", "", "args", "args"),
        ];
        for (entrypoint, cmd, command, given, expect) in rows {
            let mut fixture = Fixture::default();
            fixture.image.entrypoint = words(entrypoint);
            fixture.image.cmd = words(cmd);
            fixture.container.command = words(command);
            fixture.container.args = words(given);
            assert_eq!(
                args(&fixture.input()).unwrap(),
                words(expect),
                "{entrypoint}|{cmd}|{command}|{given}"
            );
        }
    }

    #[test]
    fn a_container_without_a_command_is_refused() {
        for (command, expect) in [
            (vec![], "command: no command specified, and the image names none"),
            (vec![""], "command: the command's name is empty"),
            (vec!["a", "b\0c"], "command: an argument holds a NUL byte"),
        ] {
            let mut fixture = Fixture::default();
            fixture.image.entrypoint.clear();
            fixture.image.cmd.clear();
            fixture.container.command = command.into_iter().map(str::to_owned).collect();
            assert_eq!(args(&fixture.input()).unwrap_err().to_string(), expect);
        }
    }

    #[test]
    fn variables_are_ordered_and_collapse() {
        let path = format!("PATH={PATH}");
        type Pairs = &'static [(&'static str, &'static str)];
        let rows: [(&[&str], Pairs, bool, &[&str]); 7] = [
            (&[], &[], false, &[&path, "HOSTNAME=web"]),
            (&[], &[], true, &[&path, "TERM=xterm", "HOSTNAME=web"]),
            (&["PATH=/bin"], &[], false, &["PATH=/bin", "HOSTNAME=web"]),
            (
                &["A=1", "B=2"],
                &[("B", "3"), ("C", "4=5")],
                false,
                &[&path, "HOSTNAME=web", "A=1", "B=3", "C=4=5"],
            ),
            (&["HOSTNAME=image"], &[("HOSTNAME", "cri")], false, &[&path, "HOSTNAME=cri"]),
            (&["A=1", "A=2"], &[("A", ""), ("A", "z")], false, &[&path, "HOSTNAME=web", "A=z"]),
            (&["HOSTNAME", "X"], &[("TERM", "vt100")], true, &[&path, "TERM=vt100"]),
        ];
        for (image, container, tty, expect) in rows {
            let mut fixture = Fixture::default();
            fixture.image.env = image.iter().map(|entry| (*entry).to_owned()).collect();
            fixture.container.envs =
                container.iter().map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec())).collect();
            fixture.container.tty = tty;
            assert_eq!(env(&fixture.input()).unwrap(), expect, "{image:?} {container:?}");
        }
    }

    #[test]
    fn variables_that_cannot_be_are_named() {
        let rows: [(&str, &[u8], &str); 5] = [
            ("", b"x", "envs[1].key: is empty"),
            ("A=B", b"x", "envs[1].key: \"A=B\" holds a '=' or a NUL byte"),
            ("A\0", b"x", "envs[1].key: \"A\\0\" holds a '=' or a NUL byte"),
            ("A", b"x\0", "envs[1].value: of A: holds a NUL byte"),
            ("A", b"\xff", "envs[1].value: of A: is not UTF-8, which an OCI specification needs"),
        ];
        for (key, value, expect) in rows {
            let mut fixture = Fixture::default();
            fixture.container.envs = vec![("OK".into(), b"1".to_vec()), (key.to_owned(), value.to_vec())];
            assert_eq!(env(&fixture.input()).unwrap_err().to_string(), expect);
        }
        for entry in ["", "=x", "A=\0"] {
            let mut fixture = Fixture::default();
            fixture.image.env = vec![entry.to_owned()];
            assert!(
                env(&fixture.input()).unwrap_err().to_string().starts_with("image.config.env"),
                "{entry:?}"
            );
        }
    }

    #[test]
    fn the_working_directory_is_the_containers_then_the_images() {
        let rows = [
            ("", "", Ok("/")),
            ("", "/srv", Ok("/srv")),
            ("", "srv", Ok("/srv")),
            ("/data", "/srv", Ok("/data")),
            ("data", "/srv", Err("working_dir: \"data\" is not absolute")),
        ];
        for (asked, image, expect) in rows {
            let mut fixture = Fixture::default();
            fixture.container.working_dir = asked.into();
            fixture.image.working_dir = image.into();
            let found = cwd(&fixture.input()).map_err(|e| e.to_string());
            assert_eq!(found, expect.map(PathBuf::from).map_err(str::to_owned));
        }
    }

    #[test]
    fn oom_score_adj_is_checked_and_clamped() {
        for (asked, lowest, expect) in [
            (0, -1000, Ok(0)),
            (-998, -1000, Ok(-998)),
            (-998, 0, Ok(0)),
            (-998, -500, Ok(-500)),
            (1000, 0, Ok(1000)),
            (1001, 0, Err("linux.resources.oom_score_adj: 1001 is not within -1000 to 1000")),
            (
                i64::MIN,
                0,
                Err("linux.resources.oom_score_adj: -9223372036854775808 is not within -1000 to 1000"),
            ),
        ] {
            let mut fixture = Fixture::default();
            fixture.container.resources.oom_score_adj = asked;
            fixture.host.oom_score_adj_min = lowest;
            let found = oom_score_adj(&fixture.input()).map_err(|e| e.to_string());
            assert_eq!(found, expect.map_err(str::to_owned));
        }
    }

    #[test]
    fn configured_limits_are_clamped_to_the_services_own() {
        let mut fixture = Fixture::default();
        let limit = |kind: &str, soft, hard| oci::Rlimit { kind: kind.into(), soft, hard };
        fixture.defaults.rlimits =
            vec![limit("RLIMIT_NOFILE", 1024, 1 << 20), limit("RLIMIT_CORE", 0, u64::MAX)];
        fixture.host.rlimits_max = [("RLIMIT_NOFILE".to_owned(), 4096)].into();
        let built = process(&fixture.input(), Capabilities::default()).unwrap();
        assert_eq!(built.rlimits, [limit("RLIMIT_NOFILE", 1024, 4096), limit("RLIMIT_CORE", 0, u64::MAX)]);
    }
}
