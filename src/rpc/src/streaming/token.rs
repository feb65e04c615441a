//! One-time tokens: 1 minute, 1000 at most, each good once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::{Classify, ErrorKind};

use super::Task;

/// How long a client may take from the URL to the connection.
const TTL: Duration = Duration::from_secs(60);
/// Tokens that may be out at once.
const TOKENS_MAX: usize = 1000;
/// 128 bits: not to be guessed.
const TOKEN_BYTES: usize = 16;

/// No token can be given out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokensFull {
    /// Too many are out.
    #[error("{TOKENS_MAX} streaming sessions were asked for and not begun: begin them or wait a minute")]
    Full,
    /// The kernel gave no random bytes.
    #[error("no random bytes for a streaming token")]
    NoRandom,
}

impl Classify for TokensFull {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Full => ErrorKind::Busy,
            Self::NoRandom => ErrorKind::Internal,
        }
    }
}

/// The tokens that are out.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashMap<String, (Instant, Task)>>);

impl Tokens {
    /// A new token for a task.
    pub(super) fn issue(&self, task: Task) -> Result<String, TokensFull> {
        self.issue_at(task, Instant::now())
    }

    /// The task of a token, which is spent by this.
    pub(super) fn redeem(&self, token: &str) -> Option<Task> {
        self.redeem_at(token, Instant::now())
    }

    fn issue_at(&self, task: Task, now: Instant) -> Result<String, TokensFull> {
        let mut bytes = [0; TOKEN_BYTES];
        let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        if filled != Ok(TOKEN_BYTES) {
            return Err(TokensFull::NoRandom);
        }
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What has lapsed holds a whole command each.
        tokens.retain(|_, (issued, _)| now.duration_since(*issued) < TTL);
        if tokens.len() >= TOKENS_MAX {
            return Err(TokensFull::Full);
        }
        tokens.insert(token.clone(), (now, task));
        Ok(token)
    }

    fn redeem_at(&self, token: &str, now: Instant) -> Option<Task> {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(token);
        found.filter(|(issued, _)| now.duration_since(*issued) < TTL).map(|(_, task)| task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> Task {
        Task::PortForward { pod: "p".into(), ports: vec![80] }
    }

    #[test]
    fn a_token_is_good_once_and_for_a_minute() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        let first = tokens.issue_at(task(), now).unwrap();
        assert_eq!(first.len(), 32);
        assert_eq!(tokens.redeem_at("nonsense", now), None);
        assert_eq!(tokens.redeem_at(&first, now + TTL / 2), Some(task()));
        assert_eq!(tokens.redeem_at(&first, now), None);
        let late = tokens.issue_at(task(), now).unwrap();
        assert_eq!(tokens.redeem_at(&late, now + TTL), None);
    }

    #[test]
    fn a_thousand_are_out_at_most() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        for _ in 0..TOKENS_MAX {
            tokens.issue_at(task(), now).unwrap();
        }
        assert_eq!(tokens.issue_at(task(), now), Err(TokensFull::Full));
        assert!(tokens.issue_at(task(), now + TTL).is_ok(), "the old ones have lapsed");
        assert_eq!(tokens.0.lock().unwrap().len(), 1, "and are kept no longer");
    }
}
