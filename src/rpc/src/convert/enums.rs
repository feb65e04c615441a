//! CRI's signals and the kernel's.

use api::v1;
use model::Signal;

use super::Invalid;

/// CRI numbers its signals on its own: RuntimeDefault is 0, then by alphabet, then the real-time ones.
pub(crate) fn stop_signal(number: i32) -> Result<Option<Signal>, Invalid> {
    let unknown = || Invalid::new("stop_signal", format!("{number} is not a signal of CRI"));
    let signal = v1::Signal::try_from(number).map_err(|_| unknown())?;
    if signal == v1::Signal::RuntimeDefault {
        return Ok(None);
    }
    Signal::parse(&linux_name(signal)).map(Some).map_err(|_| unknown())
}

/// The CRI number of a signal; 0 for one that CRI has no number for.
pub(crate) fn cri_signal(signal: Signal) -> i32 {
    let found = (1..=65).find(|number| stop_signal(*number) == Ok(Some(signal)));
    found.unwrap_or_default()
}

/// `SIGNAL_SIGRTMINPLUS3` is `SIGRTMIN+3`.
fn linux_name(signal: v1::Signal) -> String {
    signal.as_str_name().trim_start_matches("SIGNAL_").replace("PLUS", "+").replace("MINUS", "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_of_cri_is_one_of_the_kernel() {
        assert_eq!(stop_signal(0), Ok(None));
        for number in 1..=65 {
            let signal = stop_signal(number).unwrap().unwrap();
            assert_eq!(stop_signal(cri_signal(signal)), Ok(Some(signal)), "{number}");
        }
        for (number, linux) in
            [(1, 6), (13, 9), (23, 15), (28, 23), (35, 34), (38, 37), (50, 49), (51, 50), (65, 64)]
        {
            assert_eq!(stop_signal(number).unwrap().unwrap().number(), linux, "CRI's {number}");
        }
        assert!(stop_signal(66).is_err() && stop_signal(-1).is_err());
    }
}
