//! How the process ends, as numbers that a script or systemd can act on (sysexits.h where it has a word).

use std::process::ExitCode;

/// The exit status of every subcommand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done; for `serve`, drained after a signal; for `check`, the node is able.
    Success,
    /// What was asked for failed; standard error says why. For `check`: something must be repaired.
    Failure,
    /// The command line or the configuration is wrong. Restarting does not help. EX_USAGE.
    Usage,
    /// No service answers. EX_UNAVAILABLE.
    Unavailable,
    /// The host refused something that the service needs to start. EX_OSERR.
    Host,
    /// Another service holds the root directory. EX_TEMPFAIL.
    Held,
}

impl Exit {
    /// The number.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::Host => 71,
            Self::Held => 75,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
