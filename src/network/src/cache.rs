//! The result cache in libcni's layout, so that tools which read it (and a libcni that cleans up after us) find
//! what they expect: `<cache_dir>/results/<network>-<container id>-<interface>`.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use kernel::{SysError, durable};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::journal::Owed;

const KIND: &str = "cniCacheV1";

/// One file of the cache.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cached {
    kind: String,
    pub(crate) container_id: String,
    /// The network list's bytes in base64, as Go writes bytes into JSON.
    config: String,
    pub(crate) if_name: String,
    pub(crate) network_name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    netns: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cni_args: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    capability_args: Map<String, Value>,
    #[serde(default)]
    result: Value,
}

/// The cache.
pub(crate) struct Cache {
    results: PathBuf,
}

impl Cache {
    pub(crate) fn new(cache_dir: &Path) -> Self {
        Self { results: cache_dir.join("results") }
    }

    fn path(&self, attachment: &Owed) -> PathBuf {
        let name = format!("{}-{}-{}", attachment.network(), attachment.container_id, attachment.if_name);
        self.results.join(name)
    }

    /// Keeps an attachment's result, durably.
    pub(crate) fn write(&self, attachment: &Owed, result: &Value) -> Result<(), SysError> {
        let cached = Cached {
            kind: KIND.to_owned(),
            container_id: attachment.container_id.clone(),
            config: base64(Value::Object(attachment.config.clone()).to_string().as_bytes()),
            if_name: attachment.if_name.clone(),
            network_name: attachment.network().to_owned(),
            netns: attachment.netns.display().to_string(),
            cni_args: attachment.args.clone(),
            capability_args: attachment.capabilities.clone(),
            result: result.clone(),
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.results)
            .map_err(|e| SysError::path("mkdir", &self.results, e))?;
        let path = self.path(attachment);
        let bytes =
            serde_json::to_vec(&cached).map_err(|e| SysError::path("encode", &path, io::Error::from(e)))?;
        durable::write(&path, &bytes, 0o600)
    }

    /// An attachment's result, when there is a readable one.
    pub(crate) fn result(&self, attachment: &Owed) -> Option<Value> {
        let cached: Cached = serde_json::from_slice(&fs::read(self.path(attachment)).ok()?).ok()?;
        (cached.kind == KIND && cached.result.is_object()).then_some(cached.result)
    }

    /// Forgets an attachment. An absent one is success. Not durable by itself: the journal's commit follows, and
    /// a file that a power cut brought back names a network namespace that the same cut took.
    pub(crate) fn remove(&self, attachment: &Owed) -> Result<(), SysError> {
        let path = self.path(attachment);
        // What a crash in the middle of `write` left beside it.
        let mut aside = path.clone().into_os_string();
        aside.push(".new");
        let _ = fs::remove_file(aside);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(SysError::path("unlink", path, e)),
            _ => Ok(()),
        }
    }

    /// Every readable attachment of a network, whoever made it.
    pub(crate) fn attachments(&self, network: &str) -> Vec<Cached> {
        let entries = fs::read_dir(&self.results).into_iter().flatten().flatten();
        let read = |path: PathBuf| serde_json::from_slice::<Cached>(&fs::read(path).ok()?).ok();
        let all = entries.filter_map(|entry| read(entry.path()));
        all.filter(|cached| cached.kind == KIND && cached.network_name == network).collect()
    }
}

/// RFC 4648, section 4, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) & 63;
            text.push(if digit <= chunk.len() { char::from(DIGITS[index as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
            ("\u{ff}\u{fe}?", "w7/Dvj8="),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn a_file_has_libcnis_name_and_keys() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        let owed = Owed {
            container_id: "ab".repeat(32),
            config: json!({"name": "net", "cniVersion": "1.0.0", "plugins": [{"type": "x"}]})
                .as_object()
                .unwrap()
                .clone(),
            netns: "/run/netns/n".into(),
            if_name: "eth0".to_owned(),
            args: vec![("IgnoreUnknown".to_owned(), "1".to_owned())],
            capabilities: json!({"dns": {"servers": []}}).as_object().unwrap().clone(),
            result: None,
        };
        assert_eq!(cache.result(&owed), None);
        cache.remove(&owed).unwrap();
        let result = json!({"cniVersion": "1.0.0", "ips": []});
        cache.write(&owed, &result).unwrap();
        let path = dir.path().join("results").join(format!("net-{}-eth0", "ab".repeat(32)));
        let file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            file,
            json!({
                "kind": "cniCacheV1",
                "containerId": "ab".repeat(32),
                "config": base64(Value::Object(owed.config.clone()).to_string().as_bytes()),
                "ifName": "eth0",
                "networkName": "net",
                "netns": "/run/netns/n",
                "cniArgs": [["IgnoreUnknown", "1"]],
                "capabilityArgs": {"dns": {"servers": []}},
                "result": {"cniVersion": "1.0.0", "ips": []},
            })
        );
        assert_eq!(cache.result(&owed), Some(result));
        assert_eq!(cache.attachments("net").len(), 1);
        assert_eq!(cache.attachments("other").len(), 0);
        cache.remove(&owed).unwrap();
        cache.remove(&owed).unwrap();
        assert!(!path.exists());
    }
}
