//! Discovery, data-driven: files in, the chosen network and the faults out.

use super::*;

const LIST: &str = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"},{"type":"portmap"}]}"#;

fn discovered(files: &[(&str, &str)]) -> (Option<String>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    for (name, contents) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }
    let found = discover(dir.path());
    let file = |path: &Path| path.strip_prefix(dir.path()).unwrap().display().to_string();
    let chosen = found.chosen.map(|(path, list)| format!("{} {}", file(&path), list.name));
    let faults =
        found.faults.iter().map(|(path, e)| format!("{}: {}", file(path), model::chain(e))).collect();
    (chosen, faults)
}

#[test]
fn the_first_valid_file_in_lexical_order_is_used() {
    let single = r#"{"cniVersion":"0.3.1","name":"single","type":"bridge"}"#;
    for (files, chosen) in [
        (vec![], None),
        (vec![("10-a.conflist", LIST)], Some("10-a.conflist net")),
        (vec![("20-a.conflist", LIST), ("10-b.conf", single)], Some("10-b.conf single")),
        (vec![("20-a.conflist", LIST), ("10-b.json", single)], Some("10-b.json single")),
        (vec![("9-a.conflist", LIST), ("10-b.json", single)], Some("10-b.json single")),
        (vec![("a.conflist.new", LIST), ("b.txt", LIST), ("README", "x")], None),
        (vec![("a.conf/inner.conf", single)], None),
    ] {
        assert_eq!(discovered(&files), (chosen.map(str::to_owned), vec![]), "{files:?}");
    }
}

#[test]
fn a_bad_file_is_reported_and_hides_no_good_one() {
    for (contents, fault) in [
        ("", "parse: EOF while parsing a value at line 1 column 0"),
        ("[]", "parse: invalid type: sequence, expected a map at line 1 column 0"),
        (r#"{"cniVersion":"1.0.0","plugins":[{"type":"a"}]}"#, r#"no "name""#),
        (r#"{"cniVersion":"1.0.0","name":7,"plugins":[{"type":"a"}]}"#, r#""name" is not a string"#),
        (
            r#"{"cniVersion":"1.0.0","name":"../x","plugins":[{"type":"a"}]}"#,
            r#"name "../x" holds other characters than letters, digits, '_', '.', '-', or begins with one of these"#,
        ),
        (r#"{"cniVersion":"1.0.0","name":"n"}"#, "no plugins"),
        (r#"{"cniVersion":"1.0.0","name":"n","plugins":[]}"#, "no plugins"),
        (r#"{"cniVersion":"1.0.0","name":"n","plugins":{}}"#, r#""plugins" is not a list"#),
        (r#"{"cniVersion":"1.0.0","name":"n","plugins":["a"]}"#, r#""plugins" is not a list of objects"#),
        (r#"{"cniVersion":"1.0.0","name":"n","plugins":[{}]}"#, r#"no "type""#),
        (
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"../../bin/sh"}]}"#,
            r#"plugin type "../../bin/sh" is not a file name"#,
        ),
        (r#"{"name":"n","plugins":[{"type":"a"}]}"#, r#"no "cniVersion""#),
        (
            r#"{"cniVersion":"one","name":"n","plugins":[{"type":"a"}]}"#,
            r#"cniVersion: "one" is not a version of three numbers"#,
        ),
        (
            r#"{"cniVersion":"2.0.0","name":"n","plugins":[{"type":"a"}]}"#,
            "cniVersion 2.0.0 is not between 0.3.0 and 1.1.0",
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"n","disableCheck":"maybe","plugins":[{"type":"a"}]}"#,
            r#""disableCheck" is not true or false"#,
        ),
    ] {
        let found = discovered(&[("10-bad.conflist", contents), ("20-good.conflist", LIST)]);
        assert_eq!(found.0.as_deref(), Some("20-good.conflist net"), "{contents}");
        assert_eq!(found.1, [format!("10-bad.conflist: {fault}")]);
    }
    let misnamed = discovered(&[("10-a.conf", LIST)]);
    assert_eq!(misnamed, (None, vec!["10-a.conf: holds \"plugins\" but is not named *.conflist".to_owned()]));
}

#[test]
fn plugins_beside_the_list_are_appended_unless_it_forbids_it() {
    let kinds = |extra: &str, plugins: &str| {
        let dir = tempfile::tempdir().unwrap();
        let list = format!(r#"{{"cniVersion":"1.1.0","name":"net"{extra}{plugins}}}"#);
        fs::write(dir.path().join("10-net.conflist"), list).unwrap();
        fs::create_dir(dir.path().join("net")).unwrap();
        fs::write(dir.path().join("net/20-b.conf"), r#"{"type":"b"}"#).unwrap();
        fs::write(dir.path().join("net/10-a.conf"), r#"{"type":"a"}"#).unwrap();
        let list = discover(dir.path()).chosen.map(|(_, list)| list);
        list.map(|list| list.plugins.into_iter().map(|p| p.kind).collect::<Vec<_>>())
    };
    let inline = r#","plugins":[{"type":"first"}]"#;
    assert_eq!(kinds("", inline).unwrap(), ["first", "a", "b"]);
    assert_eq!(kinds("", "").unwrap(), ["a", "b"]);
    assert_eq!(kinds(r#","loadOnlyInlinedPlugins":true"#, inline).unwrap(), ["first"]);
    assert_eq!(kinds(r#","loadOnlyInlinedPlugins":true"#, ""), None);
}

#[test]
fn versions_are_collected_newest_first_and_an_attachment_keeps_one() {
    let json = r#"{"cniVersion":"0.4.0","cniVersions":["0.3.1","1.1.0","2.0.0","0.4.0"],"name":"n",
        "disableGC":"TRUE","plugins":[{"type":"a","capabilities":{"dns":true,"bandwidth":false}}]}"#;
    let list = NetworkList::from_object(parse(json.as_bytes()).unwrap()).unwrap();
    let texts: Vec<_> = list.versions.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["1.1.0", "0.4.0", "0.3.1"]);
    assert!(list.disable_gc && !list.disable_check);
    assert!(list.plugins[0].declares("dns") && !list.plugins[0].declares("bandwidth"));
    let at = list.at(SpecVersion::V0_4_0);
    assert_eq!(NetworkList::from_object(at.object().clone()).unwrap(), at);
    assert_eq!(at.versions, [SpecVersion::V0_4_0]);
}

#[test]
fn a_device_named_like_a_configuration_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/zero", dir.path().join("10-zero.conflist")).unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path().join("20-dangling.conflist")).unwrap();
    fs::write(dir.path().join("30-good.conflist"), LIST).unwrap();
    let found = discover(dir.path());
    assert_eq!(found.chosen.unwrap().1.name, "net");
    assert_eq!(found.faults.len(), 2);
}

#[test]
fn the_examples_we_ship_are_valid() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cni/examples");
    let mut seen = 0;
    for path in candidates(&examples, &["conflist"]).unwrap() {
        let list = load(&path).unwrap_or_else(|e| panic!("{}: {}", path.display(), model::chain(&e)));
        assert!(list.plugins.iter().any(|p| p.declares("portMappings")), "{}", path.display());
        seen += 1;
    }
    assert_eq!(seen, 2);
    let template = fs::read_to_string(examples.join("cni.template")).unwrap();
    let cidrs = ["10.1.0.0/24".to_owned(), "fd00::/64".to_owned()];
    let rendered = crate::template::render(&template, &crate::template::Fields::new(&cidrs)).unwrap();
    let list = NetworkList::from_object(parse(rendered.as_bytes()).unwrap()).unwrap();
    let ipam = &list.plugins[0].object["ipam"];
    assert_eq!(ipam["ranges"], serde_json::json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]));
    assert_eq!(ipam["routes"], serde_json::json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]));
}
