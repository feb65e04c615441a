//! What plugins print when an ADD succeeded: the result's shapes from one version of CNI to another, and the
//! addresses in it.
//!
//! Results stay JSON, so that whatever a plugin adds reaches the next one. What differs between versions:
//! 0.1 and 0.2 have `ip4` and `ip6`; 0.3 and 0.4 have `ips` with a `version` each; 1.0 drops that `version`;
//! 1.1 adds fields to interfaces and routes.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::IpPreference;
use crate::version::{NotAVersion, SpecVersion};

/// What came with 1.1.0 and is not known before.
const INTERFACE_1_1: [&str; 3] = ["mtu", "socketPath", "pciID"];
const ROUTE_1_1: [&str; 5] = ["mtu", "advmss", "priority", "table", "scope"];

/// Why something is not a CNI result.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// It is not a JSON object.
    #[error("parse")]
    Json(#[source] serde_json::Error),
    /// Its version is not one.
    #[error("cniVersion")]
    Version(#[source] NotAVersion),
    /// A part is not what it must be.
    #[error("{part} is not {expected}")]
    Part {
        /// Which part: `ips[0].address`.
        part: String,
        /// What it must be.
        expected: &'static str,
    },
}

fn wrong(part: impl Into<String>, expected: &'static str) -> ResultError {
    ResultError::Part { part: part.into(), expected }
}

/// Reads what a plugin printed and gives it the shape of version `wanted`. A result that does not say its
/// version has that of the configuration it answers, which is `wanted`.
pub(crate) fn parse(stdout: &[u8], wanted: SpecVersion) -> Result<Value, ResultError> {
    let object: Map<String, Value> = serde_json::from_slice(stdout).map_err(ResultError::Json)?;
    convert(object, wanted)
}

fn convert(mut object: Map<String, Value>, wanted: SpecVersion) -> Result<Value, ResultError> {
    match object.get("cniVersion") {
        None => {}
        Some(Value::String(text)) if text.is_empty() => {}
        Some(Value::String(text)) => {
            text.parse::<SpecVersion>().map_err(ResultError::Version)?;
        }
        Some(_) => return Err(wrong("cniVersion", "a string")),
    }
    lift_0_2(&mut object)?;
    each(&mut object, "interfaces", |_, interface| {
        if !interface.get("name").is_some_and(Value::is_string) {
            return Err(("name", "a string"));
        }
        if wanted < SpecVersion::V1_1_0 {
            INTERFACE_1_1.iter().for_each(|key| drop(interface.remove(*key)));
        }
        Ok(())
    })?;
    let interfaces = object.get("interfaces").and_then(Value::as_array).map_or(0, Vec::len);
    each(&mut object, "ips", |_, ip| {
        let address = ip.get("address").and_then(Value::as_str).and_then(parse_address);
        let address = address.ok_or(("address", "an IP address and a prefix length"))?;
        match ip.get("interface") {
            None | Some(Value::Null) => {}
            Some(index) => {
                let index = index.as_u64().and_then(|i| usize::try_from(i).ok());
                index.filter(|i| *i < interfaces).ok_or(("interface", "an index into interfaces"))?;
            }
        }
        if wanted < SpecVersion::V1_0_0 {
            ip.insert("version".to_owned(), if address.is_ipv4() { "4" } else { "6" }.into());
        } else {
            ip.remove("version");
        }
        Ok(())
    })?;
    each(&mut object, "routes", |_, route| {
        if !route.get("dst").is_some_and(Value::is_string) {
            return Err(("dst", "a string"));
        }
        if wanted < SpecVersion::V1_1_0 {
            ROUTE_1_1.iter().for_each(|key| drop(route.remove(*key)));
        }
        Ok(())
    })?;
    object.insert("cniVersion".to_owned(), wanted.to_string().into());
    Ok(Value::Object(object))
}

/// Checks and changes each object of a list; an absent or null list is empty.
fn each(
    object: &mut Map<String, Value>,
    list: &'static str,
    mut change: impl FnMut(usize, &mut Map<String, Value>) -> Result<(), (&'static str, &'static str)>,
) -> Result<(), ResultError> {
    let items = match object.get_mut(list) {
        None => return Ok(()),
        Some(Value::Null) => {
            object.remove(list);
            return Ok(());
        }
        Some(Value::Array(items)) => items,
        Some(_) => return Err(wrong(list, "a list")),
    };
    for (index, item) in items.iter_mut().enumerate() {
        let item = item.as_object_mut().ok_or_else(|| wrong(format!("{list}[{index}]"), "an object"))?;
        change(index, item).map_err(|(key, expected)| wrong(format!("{list}[{index}].{key}"), expected))?;
    }
    Ok(())
}

/// `ip4` and `ip6` of 0.2.0 become `ips` and `routes`.
fn lift_0_2(object: &mut Map<String, Value>) -> Result<(), ResultError> {
    let mut ips = Vec::new();
    let mut routes = Vec::new();
    for family in ["ip4", "ip6"] {
        let Some(value) = object.remove(family) else { continue };
        let mut old = match value {
            Value::Null => continue,
            Value::Object(old) => old,
            _ => return Err(wrong(family, "an object")),
        };
        let mut ip = json!({ "address": old.remove("ip") });
        if let Some(gateway) = old.remove("gateway") {
            ip["gateway"] = gateway;
        }
        ips.push(ip);
        if let Some(Value::Array(old)) = old.remove("routes") {
            routes.extend(old);
        }
    }
    if !ips.is_empty() {
        object.insert("ips".to_owned(), Value::Array(ips));
        object.insert("routes".to_owned(), Value::Array(routes));
    }
    Ok(())
}

fn parse_address(text: &str) -> Option<IpAddr> {
    let (ip, prefix) = text.split_once('/')?;
    let ip: IpAddr = ip.parse().ok()?;
    let prefix: u8 = prefix.parse().ok()?;
    (prefix <= if ip.is_ipv4() { 32 } else { 128 }).then_some(ip)
}

/// The addresses that a converted result gives to `interface`, the preferred one first. An address that names
/// no interface is the pod's; one that names an interface of the host's is not.
pub(crate) fn addresses(result: &Value, interface: &str, preference: IpPreference) -> Vec<IpAddr> {
    let list = |key: &str| result.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let interfaces = list("interfaces");
    let ours = |ip: &Value| match ip.get("interface").and_then(Value::as_u64) {
        None => true,
        Some(index) => usize::try_from(index)
            .ok()
            .and_then(|index| interfaces.get(index))
            .is_some_and(|i| i.get("name").and_then(Value::as_str) == Some(interface)),
    };
    let all = list("ips").iter().filter(|ip| ours(ip));
    let mut ips: Vec<IpAddr> =
        all.filter_map(|ip| ip.get("address")?.as_str().and_then(parse_address)).collect();
    let preferred = match preference {
        IpPreference::Cni => None,
        IpPreference::Ipv4 => ips.iter().position(IpAddr::is_ipv4),
        IpPreference::Ipv6 => ips.iter().position(IpAddr::is_ipv6),
    };
    if let Some(at) = preferred {
        ips[..=at].rotate_right(1);
    }
    ips
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(json: &str, wanted: &str) -> String {
        match parse(json.as_bytes(), wanted.parse().unwrap()) {
            Ok(result) => result.to_string(),
            Err(e) => format!("! {}", model::chain(&e)),
        }
    }

    #[test]
    fn every_shape_becomes_the_wanted_one() {
        let v02 = r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/24","gateway":"10.0.0.1",
            "routes":[{"dst":"0.0.0.0/0"}]},"ip6":{"ip":"fd00::2/64"},"dns":{"domain":"x"}}"#;
        let v03 = r#"{"cniVersion":"0.3.1","interfaces":[{"name":"eth0"}],
            "ips":[{"version":"4","address":"10.0.0.2/24","interface":0}]}"#;
        let v11 = r#"{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","mtu":1500,"pciID":"x","socketPath":"s"}],
            "ips":[{"address":"fd00::2/64","interface":0,"own":true}],
            "routes":[{"dst":"::/0","gw":"fd00::1","mtu":1,"advmss":2,"priority":3,"table":4,"scope":5}]}"#;
        for (json, wanted, expected) in [
            (
                v02,
                "0.4.0",
                r#"{"cniVersion":"0.4.0","dns":{"domain":"x"},"ips":[{"address":"10.0.0.2/24","gateway":"10.0.0.1","version":"4"},{"address":"fd00::2/64","version":"6"}],"routes":[{"dst":"0.0.0.0/0"}]}"#,
            ),
            (
                v03,
                "1.0.0",
                r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0"}],"ips":[{"address":"10.0.0.2/24","interface":0}]}"#,
            ),
            (
                v03,
                "0.4.0",
                r#"{"cniVersion":"0.4.0","interfaces":[{"name":"eth0"}],"ips":[{"address":"10.0.0.2/24","interface":0,"version":"4"}]}"#,
            ),
            (
                v11,
                "1.0.0",
                r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0"}],"ips":[{"address":"fd00::2/64","interface":0,"own":true}],"routes":[{"dst":"::/0","gw":"fd00::1"}]}"#,
            ),
            (
                v11,
                "0.3.1",
                r#"{"cniVersion":"0.3.1","interfaces":[{"name":"eth0"}],"ips":[{"address":"fd00::2/64","interface":0,"own":true,"version":"6"}],"routes":[{"dst":"::/0","gw":"fd00::1"}]}"#,
            ),
            ("{}", "1.0.0", r#"{"cniVersion":"1.0.0"}"#),
            (r#"{"cniVersion":"","ips":null}"#, "1.0.0", r#"{"cniVersion":"1.0.0"}"#),
        ] {
            assert_eq!(converted(json, wanted), expected, "{json} as {wanted}");
        }
        let same = parse(v11.as_bytes(), SpecVersion::V1_1_0).unwrap();
        assert_eq!(same, serde_json::from_str::<Value>(v11).unwrap());
    }

    #[test]
    fn what_is_no_result_is_refused_with_the_place() {
        for (json, why) in [
            ("", "parse: EOF while parsing a value at line 1 column 0"),
            ("hello", "parse: expected value at line 1 column 1"),
            (
                r#"{"ips":[{"address":"10.0.0.2"}]}"#,
                "ips[0].address is not an IP address and a prefix length",
            ),
            (
                r#"{"ips":[{"address":"10.0.0.2/33"}]}"#,
                "ips[0].address is not an IP address and a prefix length",
            ),
            (
                r#"{"ips":[{"address":"10.0.0.2/24","interface":0}]}"#,
                "ips[0].interface is not an index into interfaces",
            ),
            (
                r#"{"interfaces":[{"name":"a"}],"ips":[{"address":"10.0.0.2/24","interface":-1}]}"#,
                "ips[0].interface is not an index into interfaces",
            ),
            (r#"{"ips":{}}"#, "ips is not a list"),
            (r#"{"interfaces":["eth0"]}"#, "interfaces[0] is not an object"),
            (r#"{"interfaces":[{}]}"#, "interfaces[0].name is not a string"),
            (r#"{"routes":[{}]}"#, "routes[0].dst is not a string"),
            (r#"{"cniVersion":1}"#, "cniVersion is not a string"),
            (r#"{"cniVersion":"x"}"#, "cniVersion: \"x\" is not a version of three numbers"),
            (r#"{"ip4":{}}"#, "ips[0].address is not an IP address and a prefix length"),
        ] {
            assert_eq!(converted(json, "1.0.0"), format!("! {why}"), "{json}");
        }
    }

    #[test]
    fn addresses_are_the_pods_and_the_preferred_family_comes_first() {
        let result = json!({
            "interfaces": [{"name": "cni0"}, {"name": "eth0"}],
            "ips": [
                {"address": "10.9.9.9/24", "interface": 0},
                {"address": "fd00::2/64", "interface": 1},
                {"address": "fd00::3/64"},
                {"address": "10.0.0.2/24", "interface": 1},
            ],
        });
        for (preference, expected) in [
            (IpPreference::Cni, ["fd00::2", "fd00::3", "10.0.0.2"]),
            (IpPreference::Ipv6, ["fd00::2", "fd00::3", "10.0.0.2"]),
            (IpPreference::Ipv4, ["10.0.0.2", "fd00::2", "fd00::3"]),
        ] {
            let ips: Vec<_> =
                addresses(&result, "eth0", preference).iter().map(ToString::to_string).collect();
            assert_eq!(ips, expected, "{preference:?}");
        }
        assert_eq!(addresses(&json!({}), "eth0", IpPreference::Ipv4), Vec::<IpAddr>::new());
    }
}
