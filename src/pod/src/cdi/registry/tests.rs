//! Directories of files, right and wrong.

use super::*;

fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    // As writers should: a new file, then its name.
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

fn spec(kind: &str, device: &str, env: &str) -> String {
    format!(
        "cdiVersion: \"0.6.0\"\nkind: {kind}\ncontainerEdits:\n  env: [\"ALL={env}\"]\ndevices:\n- name: \"{device}\"\n  \
         containerEdits:\n    env: [\"ONE={env}\"]\n"
    )
}

fn env(registry: &Registry, names: &[&str]) -> Result<Vec<String>, String> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let edits = registry.edits(&names).map_err(|(n, why)| format!("{n}: {why}"))?;
    Ok(edits.into_iter().flat_map(|edits| edits.env).collect())
}

#[test]
fn files_are_read_again_when_they_change() {
    let dir = tempfile::tempdir().unwrap();
    let (etc, run) = (dir.path().join("etc"), dir.path().join("run"));
    let registry = Registry::new(vec![etc.clone(), run.clone()]);
    assert!(
        env(&registry, &["v.com/gpu=0"]).unwrap_err().starts_with("0: \"v.com/gpu=0\" is in no CDI spec")
    );
    put(&etc.join("a.yaml"), &spec("v.com/gpu", "0", "etc"));
    assert_eq!(env(&registry, &["v.com/gpu=0"]).unwrap(), ["ALL=etc", "ONE=etc"]);
    put(&etc.join("a.yaml"), &spec("v.com/gpu", "0", "new"));
    assert_eq!(env(&registry, &["v.com/gpu=0"]).unwrap(), ["ALL=new", "ONE=new"]);
    put(&run.join("a.yaml"), &spec("v.com/gpu", "0", "run"));
    assert_eq!(env(&registry, &["v.com/gpu=0"]).unwrap(), ["ALL=run", "ONE=run"], "the later directory");
    put(&run.join("b.yaml"), &spec("v.com/gpu", "0", "run"));
    let conflict = env(&registry, &["v.com/gpu=0"]).unwrap_err();
    assert!(conflict.contains("is described by both ") && conflict.contains("run/b.yaml"), "{conflict}");
    fs::remove_file(run.join("b.yaml")).unwrap();
    assert!(env(&registry, &["v.com/gpu=0"]).is_ok());
}

#[test]
fn what_is_for_all_devices_of_a_file_is_there_once() {
    let dir = tempfile::tempdir().unwrap();
    let json = r#"{"cdiVersion": "1.0.0", "kind": "v.com/nic", "annotations": {"a": "b"},
        "containerEdits": {"env": ["ALL=1"]},
        "devices": [{"name": "a", "containerEdits": {"env": ["A=1"]}}, {"name": "b", "containerEdits": {"env": ["B=1"]}}]}"#;
    put(&dir.path().join("v.json"), json);
    put(&dir.path().join("ignored.txt"), "not one");
    let registry = Registry::new(vec![dir.path().to_owned()]);
    assert_eq!(env(&registry, &["v.com/nic=b", "v.com/nic=a"]).unwrap(), ["ALL=1", "B=1", "A=1"]);
    assert!(env(&registry, &["v.com/nic=b", "v.com/nic=c"]).unwrap_err().starts_with("1: \"v.com/nic=c\""));
}

#[test]
fn a_bad_file_is_named_where_a_device_is_missed_and_hides_no_other() {
    let begin = "cdiVersion: \"0.6.0\"\nkind: v.com/gpu\n";
    for (text, expect) in [
        ("cdiVersion: \"9.0.0\"\nkind: v.com/gpu\n".to_owned(), "cdiVersion \"9.0.0\" is not known"),
        ("cdiVersion: \"0.6.0\"\nkind: gpu\n".to_owned(), "kind \"gpu\" is not vendor/class"),
        (format!("{begin}new: 1\n"), "unknown field `new`"),
        (format!("{begin}devices: [{{name: \"-\"}}]\n"), "\"-\" is not a device's name"),
        (
            format!("{begin}containerEdits: {{mounts: [{{hostPath: x, containerPath: /y}}]}}\n"),
            "mounts.hostPath \"x\" is not absolute",
        ),
        (
            format!("{begin}containerEdits: {{hooks: [{{hookName: sometime, path: /x}}]}}\n"),
            "unknown variant `sometime`",
        ),
        (
            format!("{begin}containerEdits: {{deviceNodes: [{{path: /x, permissions: rx}}]}}\n"),
            "permissions of device node \"/x\" are not of r, w and m",
        ),
        ("{[".to_owned(), "bad.yaml: "),
    ] {
        let dir = tempfile::tempdir().unwrap();
        put(&dir.path().join("bad.yaml"), &text);
        put(&dir.path().join("good.yaml"), &spec("w.com/gpu", "0", "x"));
        let registry = Registry::new(vec![dir.path().to_owned()]);
        let error = env(&registry, &["v.com/gpu=0"]).unwrap_err();
        assert!(error.contains("; unreadable is ") && error.contains(expect), "{text}: {error}");
        assert!(env(&registry, &["w.com/gpu=0"]).is_ok(), "{text}");
    }
}
