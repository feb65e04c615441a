//! Bandwidth from a pod's annotations: Kubernetes quantities in, CNI's `bandwidth` capability out.

use model::StringMap;
use serde_json::{Value, json};

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// What Kubernetes takes for a plausible rate, bits per second: 1 kbit to 1 Pbit.
const RATE: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;
/// The burst that containerd gives to every limited direction, bits.
const BURST: u64 = u32::MAX as u64;

/// Why an annotation is not a bandwidth.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BandwidthError {
    #[error("annotation {key} is {value:?}, which is not a Kubernetes quantity")]
    NotAQuantity { key: &'static str, value: String },
    #[error("annotation {key} is {value:?}, which is not between 1k and 1P bits per second")]
    Implausible { key: &'static str, value: String },
}

/// The `bandwidth` capability, where the annotations ask for one.
pub(crate) fn from_annotations(annotations: &StringMap) -> Result<Option<Value>, BandwidthError> {
    let mut bandwidth = json!({});
    for (key, rate, burst) in
        [(INGRESS, "ingressRate", "ingressBurst"), (EGRESS, "egressRate", "egressBurst")]
    {
        let Some(text) = annotations.get(key) else { continue };
        let value =
            quantity(text).ok_or_else(|| BandwidthError::NotAQuantity { key, value: text.clone() })?;
        if !RATE.contains(&value) {
            return Err(BandwidthError::Implausible { key, value: text.clone() });
        }
        bandwidth[rate] = value.into();
        bandwidth[burst] = BURST.into();
    }
    Ok(bandwidth.as_object().is_some_and(|b| !b.is_empty()).then_some(bandwidth))
}

/// A Kubernetes resource quantity (`1M`, `1.5Gi`, `10e3`, `100m`) as a whole number, rounded up, as the API
/// machinery's `Quantity.Value` does. `None` also for what is negative or does not fit.
fn quantity(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '+')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let number = number.strip_prefix('+').unwrap_or(number);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let (multiplier, mut divisor) = scale(suffix)?;
    // Beyond nine digits a fraction is lost in the rounding up; the API machinery stops there too.
    let kept = &fraction[..fraction.len().min(9)];
    let mut value = format!("{whole}{kept}").parse::<u128>().ok()?;
    divisor = divisor.checked_mul(10_u128.checked_pow(u32::try_from(kept.len()).ok()?)?)?;
    value = value.checked_mul(multiplier)?;
    u64::try_from(value.div_ceil(divisor)).ok()
}

/// A suffix as multiplier and divisor.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    const DECIMAL: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    const SMALL: [&str; 3] = ["m", "u", "n"];
    let power = |of: &[&str]| of.iter().position(|s| *s == suffix).and_then(|at| u32::try_from(at).ok());
    if let Some(at) = power(&DECIMAL) {
        return Some((1000_u128.pow(at), 1));
    }
    if let Some(at) = power(&BINARY) {
        return Some((1024_u128.pow(at + 1), 1));
    }
    if let Some(at) = power(&SMALL) {
        return Some((1, 1000_u128.pow(at + 1)));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let power = 10_u128.checked_pow(exponent.unsigned_abs())?;
    Some(if exponent < 0 { (1, power) } else { (power, 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_does() {
        for (text, value) in [
            ("0", Some(0)),
            ("1000", Some(1000)),
            ("1k", Some(1000)),
            ("1Ki", Some(1024)),
            ("10M", Some(10_000_000)),
            ("1.5Gi", Some(1_610_612_736)),
            ("2.5M", Some(2_500_000)),
            (".5k", Some(500)),
            ("5.k", Some(5000)),
            ("+1M", Some(1_000_000)),
            ("1500m", Some(2)),
            ("1n", Some(1)),
            ("12e3", Some(12_000)),
            ("12E3", Some(12_000)),
            ("1e-3", Some(1)),
            ("1E", Some(1_000_000_000_000_000_000)),
            ("16Ei", None),
            ("99999999999999999999999999999999999999999", None),
            ("1e400", None),
            ("", None),
            (".", None),
            ("-1M", None),
            ("1 M", None),
            ("1K", None),
            ("1.2.3", None),
            ("M", None),
            ("0x10", None),
            ("1Mi1", None),
            ("1+1", None),
        ] {
            assert_eq!(quantity(text), value, "{text:?}");
        }
    }

    #[test]
    fn annotations_become_the_capability_or_a_clear_error() {
        let of = |pairs: &[(&str, &str)]| {
            let annotations = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            from_annotations(&annotations).map_err(|e| e.to_string())
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(
            of(&[(INGRESS, "10M"), (EGRESS, "1Gi")]),
            Ok(Some(json!({
                "ingressRate": 10_000_000, "ingressBurst": 4_294_967_295_u64,
                "egressRate": 1_073_741_824, "egressBurst": 4_294_967_295_u64,
            })))
        );
        assert_eq!(of(&[(EGRESS, "1M")]).unwrap().unwrap().get("ingressRate"), None);
        for bad in ["1", "999", "2P", "fast"] {
            assert!(of(&[(INGRESS, bad)]).unwrap_err().contains(&format!("{bad:?}")), "{bad}");
        }
    }
}
