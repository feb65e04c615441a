//! The compiled contract and schema/cri-v1.tsv say the same, line by line, in both directions.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

const SCHEMA: &str = include_str!("../schema/cri-v1.tsv");
const PACKAGE: &str = ".runtime.v1.";

/// `kind owner name number-or-request type-or-reply`, tab separated: the table without its "new" column.
fn table() -> BTreeSet<String> {
    SCHEMA
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split('\t').take(5).collect::<Vec<_>>().join("\t"))
        .collect()
}

fn compiled() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(api::DESCRIPTOR).unwrap();
    let mut lines = BTreeSet::new();
    for file in &set.file {
        assert_eq!((file.package(), file.syntax()), ("runtime.v1", "proto3"));
        for service in &file.service {
            for method in &service.method {
                assert!(!method.client_streaming(), "{} streams from the client", method.name());
                let stream = if method.server_streaming() { "stream " } else { "" };
                let (request, reply) = (local(method.input_type()), local(method.output_type()));
                let owner = service.name();
                lines.insert(format!("rpc\t{owner}\t{}\t{request}\t{stream}{reply}", method.name()));
            }
        }
        file.enum_type.iter().for_each(|e| enumeration(e, "", &mut lines));
        file.message_type.iter().for_each(|m| message(m, &mut lines));
    }
    lines
}

fn message(message: &DescriptorProto, lines: &mut BTreeSet<String>) {
    let owner = message.name();
    lines.insert(format!("message\t{owner}\t\t\t"));
    message.enum_type.iter().for_each(|e| enumeration(e, &format!("{owner}."), lines));
    for field in &message.field {
        assert!(field.oneof_index.is_none(), "{owner}.{} is in a oneof", field.name());
        lines.insert(format!(
            "field\t{owner}\t{}\t{}\t{}",
            field.name(),
            field.number(),
            field_type(message, field)
        ));
    }
    for nested in &message.nested_type {
        assert!(nested.options.as_ref().is_some_and(|o| o.map_entry()), "{owner} nests {}", nested.name());
    }
}

fn enumeration(e: &EnumDescriptorProto, prefix: &str, lines: &mut BTreeSet<String>) {
    for value in &e.value {
        lines.insert(format!("enum\t{prefix}{}\t{}\t{}\t", e.name(), value.name(), value.number()));
    }
}

fn field_type(owner: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let map =
        owner.nested_type.iter().find(|nested| field.type_name().ends_with(&format!(".{}", nested.name())));
    if let Some(entry) = map {
        let (key, value) = (scalar(&entry.field[0]), scalar(&entry.field[1]));
        return format!("map<{key},{value}>");
    }
    let repeated = if field.label() == Label::Repeated { "repeated " } else { "" };
    let deprecated = if field.options.as_ref().is_some_and(|o| o.deprecated()) { " deprecated" } else { "" };
    format!("{repeated}{}{deprecated}", scalar(field))
}

fn scalar(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        // The table writes a nested enum without its owner.
        Type::Message | Type::Enum => {
            local(field.type_name()).rsplit('.').next().unwrap_or_default().to_owned()
        }
        Type::String => "string".into(),
        Type::Bytes => "bytes".into(),
        Type::Bool => "bool".into(),
        Type::Int32 => "int32".into(),
        Type::Int64 => "int64".into(),
        Type::Uint32 => "uint32".into(),
        Type::Uint64 => "uint64".into(),
        Type::Double => "double".into(),
        other => panic!("the contract has no {other:?}"),
    }
}

fn local(type_name: &str) -> String {
    type_name.strip_prefix(PACKAGE).unwrap_or(type_name).to_owned()
}

#[test]
fn the_compiled_contract_is_the_schema_table() {
    let (table, compiled) = (table(), compiled());
    let missing: Vec<_> = table.difference(&compiled).collect();
    let extra: Vec<_> = compiled.difference(&table).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "not compiled: {missing:#?}\nnot in the table: {extra:#?}"
    );
    assert_eq!(table.iter().filter(|line| line.starts_with("rpc\t")).count(), 43);
}
