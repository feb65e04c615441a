//! Signals by number and by name.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A Linux signal, 1 to 64 (signal(7)). Real-time signals count from `SIGRTMIN` = 34, as glibc does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Signal(u8);

/// A signal that has no name or number on Linux.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a signal")]
pub struct UnknownSignal(pub String);

const RTMIN: u8 = 34;
const RTMAX: u8 = 64;

const NAMES: [(&str, u8); 35] = [
    ("SIGHUP", 1),
    ("SIGINT", 2),
    ("SIGQUIT", 3),
    ("SIGILL", 4),
    ("SIGTRAP", 5),
    ("SIGABRT", 6),
    ("SIGIOT", 6),
    ("SIGBUS", 7),
    ("SIGFPE", 8),
    ("SIGKILL", 9),
    ("SIGUSR1", 10),
    ("SIGSEGV", 11),
    ("SIGUSR2", 12),
    ("SIGPIPE", 13),
    ("SIGALRM", 14),
    ("SIGTERM", 15),
    ("SIGSTKFLT", 16),
    ("SIGCHLD", 17),
    ("SIGCLD", 17),
    ("SIGCONT", 18),
    ("SIGSTOP", 19),
    ("SIGTSTP", 20),
    ("SIGTTIN", 21),
    ("SIGTTOU", 22),
    ("SIGURG", 23),
    ("SIGXCPU", 24),
    ("SIGXFSZ", 25),
    ("SIGVTALRM", 26),
    ("SIGPROF", 27),
    ("SIGWINCH", 28),
    ("SIGIO", 29),
    ("SIGPOLL", 29),
    ("SIGPWR", 30),
    ("SIGSYS", 31),
    ("SIGUNUSED", 31),
];

impl Signal {
    /// Cannot be caught.
    pub const KILL: Self = Self(9);
    /// The polite request to end.
    pub const TERM: Self = Self(15);

    /// The signal's number.
    pub fn number(self) -> i32 {
        i32::from(self.0)
    }

    /// A signal by number.
    pub fn from_number(number: i32) -> Option<Self> {
        u8::try_from(number).ok().filter(|n| (1..=RTMAX).contains(n)).map(Self)
    }

    /// A signal as images and people write it: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, `RTMAX-1`; any case.
    ///
    /// # Errors
    /// The text, when it names no signal.
    pub fn parse(text: &str) -> Result<Self, UnknownSignal> {
        let unknown = || UnknownSignal(text.to_owned());
        if let Ok(number) = text.trim().parse::<i32>() {
            return Self::from_number(number).ok_or_else(unknown);
        }
        let upper = text.trim().to_ascii_uppercase();
        let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
        let real_time = |offset: &str| offset.parse::<u8>().ok().filter(|n| *n <= RTMAX - RTMIN);
        let number = if name == "SIGRTMIN" {
            Some(RTMIN)
        } else if name == "SIGRTMAX" {
            Some(RTMAX)
        } else if let Some(offset) = name.strip_prefix("SIGRTMIN+") {
            real_time(offset).map(|n| RTMIN + n)
        } else if let Some(offset) = name.strip_prefix("SIGRTMAX-") {
            real_time(offset).map(|n| RTMAX - n)
        } else {
            NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
        };
        number.map(Self).ok_or_else(unknown)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.write_str(name),
            None if self.0 >= RTMIN => write!(f, "SIGRTMIN+{}", self.0 - RTMIN),
            None => write!(f, "signal {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_parse_by_name_and_number() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("rtmax-1", 63),
            ("SIGRTMAX", 64),
            ("SIGCLD", 17),
        ] {
            assert_eq!(Signal::parse(text).map(Signal::number), Ok(number), "{text}");
        }
        for bad in ["", "0", "65", "-1", "SIGNOPE", "SIGRTMIN+31", "SIGRTMAX-x"] {
            assert_eq!(Signal::parse(bad), Err(UnknownSignal(bad.to_owned())));
        }
        assert_eq!(Signal::from_number(37).unwrap().to_string(), "SIGRTMIN+3");
    }
}
