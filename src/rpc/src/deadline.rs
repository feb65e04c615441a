//! A client's deadline, kept as gRPC says: DEADLINE_EXCEEDED.
//!
//! tonic keeps it too, around this layer, but answers CANCELLED; a client whose own clock is a moment behind then
//! believes that it hung up. This deadline begins before tonic's and is looked at first.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

/// gRPC over HTTP/2: at most eight digits and a unit.
const DIGITS_MAX: usize = 8;

/// What a request's `grpc-timeout` says; nothing when it says none or nonsense.
pub(crate) fn of_request(headers: &http::HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let digits = text.len().checked_sub(1)?;
    let (count, unit) = text.split_at_checked(digits)?;
    if !(1..=DIGITS_MAX).contains(&digits) || !count.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = count.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// Runs `work` until it ends or `timeout` has passed since this call; then it is dropped and there is nothing.
pub(crate) fn keep<F: Future>(timeout: Option<Duration>, work: F) -> impl Future<Output = Option<F::Output>> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    async move {
        let mut work = pin!(work);
        let mut alarm = pin!(deadline.map(tokio::time::sleep_until));
        std::future::poll_fn(|cx| {
            if let Poll::Ready(value) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(value));
            }
            let rang = alarm.as_mut().as_pin_mut().is_some_and(|alarm| alarm.poll(cx).is_ready());
            // tonic's alarm may have woken us before our own.
            let passed = rang || deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if passed { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeout(text: &str) -> Option<Duration> {
        let mut headers = http::HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().unwrap());
        of_request(&headers)
    }

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        let table = [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("15S", Some(Duration::from_secs(15))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("944u", Some(Duration::from_micros(944))),
            ("7n", Some(Duration::from_nanos(7))),
            ("", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("-1S", None),
            ("100000000m", None),
        ];
        for (text, expected) in table {
            assert_eq!(timeout(text), expected, "{text:?}");
        }
        assert_eq!(of_request(&http::HeaderMap::new()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_is_done_in_time_is_kept() {
        let minute = Duration::from_secs(60);
        let work = |after: Duration| async move {
            tokio::time::sleep(after).await;
            7
        };
        assert_eq!(keep(Some(minute), work(Duration::from_secs(59))).await, Some(7));
        assert_eq!(keep(Some(minute), work(Duration::from_secs(61))).await, None);
        assert_eq!(keep(None, work(Duration::from_secs(3600))).await, Some(7));
        assert_eq!(keep(Some(Duration::ZERO), async { 7 }).await, Some(7), "what is done is done");
    }
}
