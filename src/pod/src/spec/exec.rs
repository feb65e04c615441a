//! A further process in a running container.

use super::SpecError;
use super::oci::{Process, Spec};
use super::process::{Environment, TERM};

/// The process of an exec: the container's user, capabilities, environment, directory and confinement, with another
/// command.
///
/// # Errors
/// The command is empty or holds a NUL byte.
pub fn exec_process(spec: &Spec, cmd: &[String], tty: bool) -> Result<Process, SpecError> {
    if cmd.first().is_none_or(String::is_empty) {
        return Err(SpecError::invalid("cmd", "no command specified"));
    }
    if cmd.iter().any(|arg| arg.contains('\0')) {
        return Err(SpecError::invalid("cmd", "an argument holds a NUL byte"));
    }
    let mut env = Environment(spec.process.env.clone());
    if tty && !env.has("TERM") {
        env.set("TERM", TERM);
    }
    Ok(Process { terminal: tty, args: cmd.to_vec(), env: env.0, ..spec.process.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::build;
    use crate::spec::fixture::Fixture;

    #[test]
    fn an_exec_has_everything_of_the_containers_but_the_command() {
        let mut fixture = Fixture::default();
        fixture.container.security.no_new_privs = true;
        let spec = build(&fixture.input()).unwrap();
        let cmd = vec!["ls".to_owned(), "-l".to_owned()];
        let process = exec_process(&spec, &cmd, false).unwrap();
        assert_eq!(process, Process { args: cmd.clone(), ..spec.process.clone() });
        let process = exec_process(&spec, &cmd, true).unwrap();
        assert!(process.terminal && process.env.contains(&"TERM=xterm".to_owned()));
        let mut own = spec.clone();
        own.process.env.push("TERM=vt100".into());
        assert_eq!(exec_process(&own, &cmd, true).unwrap().env, own.process.env);
    }

    #[test]
    fn an_exec_without_a_command_is_refused() {
        let spec = Spec::default();
        for (cmd, expect) in [
            (vec![], "cmd: no command specified"),
            (vec![String::new()], "cmd: no command specified"),
            (vec!["a\0".into()], "cmd: an argument holds a NUL byte"),
        ] {
            assert_eq!(exec_process(&spec, &cmd, false).unwrap_err().to_string(), expect);
        }
    }
}
