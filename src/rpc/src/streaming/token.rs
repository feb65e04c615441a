//! One-time tokens: good for a minute unless configured, 1000 at most, each good once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::{Classify, ErrorKind};

use super::Task;

/// Tokens that may be out at once.
const TOKENS_MAX: usize = 1000;
/// 128 bits: not to be guessed.
const TOKEN_BYTES: usize = 16;

/// No token can be given out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokensFull {
    /// Too many are out.
    #[error(
        "{TOKENS_MAX} streaming sessions were asked for and not begun: begin them, or wait until they lapse"
    )]
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
#[derive(Debug)]
pub(super) struct Tokens {
    /// How long a client may take from the URL to the connection.
    ttl: Duration,
    out: Mutex<HashMap<String, (Instant, Task)>>,
}

impl Tokens {
    pub(super) fn new(ttl: Duration) -> Self {
        Self { ttl, out: Mutex::default() }
    }

    /// How many are out and good.
    pub(super) fn out(&self) -> usize {
        let mut tokens = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        self.forget_lapsed(&mut tokens, Instant::now());
        tokens.len()
    }

    /// What has lapsed holds a whole command each.
    fn forget_lapsed(&self, tokens: &mut HashMap<String, (Instant, Task)>, now: Instant) {
        tokens.retain(|_, (issued, _)| now.duration_since(*issued) < self.ttl);
    }

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
        let mut tokens = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        self.forget_lapsed(&mut tokens, now);
        if tokens.len() >= TOKENS_MAX {
            return Err(TokensFull::Full);
        }
        tokens.insert(token.clone(), (now, task));
        Ok(token)
    }

    fn redeem_at(&self, token: &str, now: Instant) -> Option<Task> {
        let found = self.out.lock().unwrap_or_else(PoisonError::into_inner).remove(token);
        found.filter(|(issued, _)| now.duration_since(*issued) < self.ttl).map(|(_, task)| task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    fn task() -> Task {
        Task::PortForward { pod: "p".into(), ports: vec![80] }
    }

    #[test]
    fn a_token_is_good_once_and_for_a_while() {
        let (tokens, now) = (Tokens::new(TTL), Instant::now());
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
        let (tokens, now) = (Tokens::new(TTL), Instant::now());
        for _ in 0..TOKENS_MAX {
            tokens.issue_at(task(), now).unwrap();
        }
        assert_eq!(tokens.issue_at(task(), now), Err(TokensFull::Full));
        assert!(tokens.issue_at(task(), now + TTL).is_ok(), "the old ones have lapsed");
        assert_eq!(tokens.out(), 1, "and are kept no longer");
    }
}
