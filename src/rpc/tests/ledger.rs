//! docs/cri-coverage.tsv says what becomes of each field of the contract. It names every field and nothing else, each
//! with a test that there is; and README's list of what is missing is made from it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const SCHEMA: &str = include_str!("../../../api/schema/cri-v1.tsv");
const LEDGER: &str = include_str!("../../../docs/cri-coverage.tsv");
const MARKS: [&str; 2] = ["<!-- unbuilt: kept in step by src/rpc/tests/ledger.rs -->\n", "<!-- /unbuilt -->"];

/// One field of the contract.
struct Row {
    message: &'static str,
    field: &'static str,
    state: &'static str,
    /// `path/of/file.rs::name_of_test`
    proof: &'static str,
    remark: &'static str,
}

impl Row {
    fn name(&self) -> String {
        format!("{}.{}", self.message, self.field)
    }
}

fn rows() -> Vec<Row> {
    let row = |line: &'static str| {
        let parts: Vec<&str> = line.split('\t').collect();
        let [message, field, state, proof, ref remark @ ..] = parts[..] else { panic!("{line:?}") };
        Row { message, field, state, proof, remark: remark.first().copied().unwrap_or_default() }
    };
    LEDGER.lines().filter(|line| !line.starts_with('#')).map(row).collect()
}

/// The lines of the schema of one kind: owner, name, number or request, type or reply.
fn schema(kind: &str) -> Vec<[&'static str; 4]> {
    let parts = SCHEMA.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    parts.filter(|parts| parts[0] == kind).map(|parts| [parts[1], parts[2], parts[3], parts[4]]).collect()
}

#[test]
fn the_ledger_has_every_field_of_the_contract_and_no_other() {
    let contract: Vec<String> =
        schema("field").iter().map(|[owner, name, ..]| format!("{owner}.{name}")).collect();
    let ledger: Vec<String> = rows().iter().map(Row::name).collect();
    assert_eq!(ledger, contract, "the same fields in the same order");
    assert_eq!(ledger.len(), 478);
}

#[test]
fn each_field_has_a_state_and_a_test_that_there_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files: BTreeMap<&str, String> = BTreeMap::new();
    for row in rows() {
        let name = row.name();
        assert!(["honoured", "echoed", "refused", "not yet"].contains(&row.state), "{name}: {:?}", row.state);
        assert!(row.state != "not yet" || !row.remark.is_empty(), "{name}: what happens instead?");
        let (file, test) = row.proof.split_once("::").unwrap_or_else(|| panic!("{name} names no test"));
        let text = files.entry(file).or_insert_with(|| {
            fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{name}: {file}: {error}"))
        });
        let before = text.split_once(&format!("fn {test}()")).map_or("", |(before, _)| before);
        // Attributes and remarks stand before a function, each on a line of its own.
        let above = before.lines().rev().map(str::trim).skip_while(|line| ["", "async"].contains(line));
        let is_test = above.take_while(|line| line.starts_with(['#', '/'])).any(|line| line.contains("test"));
        assert!(is_test, "{name}: {file} has no test {test}");
    }
}

/// README's list, between its two marks: the fields by what happens instead.
#[test]
fn the_readme_says_what_is_not_there() {
    let rows = rows();
    let mut by_remark: Vec<(&str, Vec<String>)> = Vec::new();
    for row in rows.iter().filter(|row| row.state == "not yet") {
        let name = format!("`{}`", row.name());
        match by_remark.iter_mut().find(|(remark, _)| *remark == row.remark) {
            Some((_, names)) => names.push(name),
            None => by_remark.push((row.remark, vec![name])),
        }
    }
    let fields = by_remark.iter().map(|(remark, names)| format!("- {}: {remark}\n", names.join(", ")));
    let mut list: String = fields.collect();
    if list.is_empty() {
        "Nothing: every call is built, and every field is honoured or refused by its name.\n"
            .clone_into(&mut list);
    }
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md")).unwrap();
    let (_, after) = readme.split_once(MARKS[0]).unwrap();
    let (written, _) = after.split_once(MARKS[1]).unwrap();
    assert_eq!(written, list, "README should say:\n{list}");
}
