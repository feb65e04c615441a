//! Compiles proto/cri.proto without protoc, and keeps the descriptor set for the schema test.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;
use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::{Label, Type};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto/cri.proto");
    let files = protox::compile(["proto/cri.proto"], ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("cri.descriptor"), files.encode_to_vec())?;
    // Maps with an order of their own: the same message is the same bytes. As JSON the fields have the contract's names.
    tonic_prost_build::configure()
        .build_server(false)
        .btree_map(".")
        .type_attribute(".", "#[derive(serde::Serialize)]")
        .field_attribute("Mount.uidMappings", "#[serde(rename = \"uidMappings\")]")
        .field_attribute("Mount.gidMappings", "#[serde(rename = \"gidMappings\")]")
        .field_attribute("ContainerConfig.CDI_devices", "#[serde(rename = \"CDI_devices\")]")
        .field_attribute("KeyValue.value", "#[serde(serialize_with = \"crate::as_text\")]")
        .compile_fds(files.clone())?;
    // The services once more, as a server has them: with `crate::List` in place of every answer that is one.
    let served = out.join("served");
    std::fs::create_dir_all(&served)?;
    let mut services = tonic_prost_build::configure().build_client(false).out_dir(served);
    for name in lists(&files) {
        services = services.extern_path(format!(".runtime.v1.{name}"), "crate::List");
    }
    services.extern_path(".runtime.v1", "crate::v1").compile_fds(files)?;
    Ok(())
}

/// The answers that are lists: one field, of number 1, of as many messages as there are.
fn lists(files: &FileDescriptorSet) -> impl Iterator<Item = &str> {
    let messages = files.file.iter().flat_map(|file| &file.message_type);
    let lists = messages.filter(|message| match message.field.as_slice() {
        // A map is written as a message of its own within.
        [field] if message.nested_type.is_empty() => {
            field.number() == 1 && field.label() == Label::Repeated && field.r#type() == Type::Message
        }
        _ => false,
    });
    lists.map(|message| message.name()).filter(|name| name.ends_with("Response"))
}
