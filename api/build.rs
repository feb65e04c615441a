//! Compiles proto/cri.proto without protoc, and keeps the descriptor set for the schema test.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto/cri.proto");
    let files = protox::compile(["proto/cri.proto"], ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("cri.descriptor"), files.encode_to_vec())?;
    // Maps with an order of their own: the same message is the same bytes. As JSON the fields have the contract's names.
    tonic_prost_build::configure()
        .btree_map(".")
        .type_attribute(".", "#[derive(serde::Serialize)]")
        .field_attribute("Mount.uidMappings", "#[serde(rename = \"uidMappings\")]")
        .field_attribute("Mount.gidMappings", "#[serde(rename = \"gidMappings\")]")
        .field_attribute("ContainerConfig.CDI_devices", "#[serde(rename = \"CDI_devices\")]")
        .field_attribute("KeyValue.value", "#[serde(serialize_with = \"crate::as_text\")]")
        .compile_fds(files)?;
    Ok(())
}
