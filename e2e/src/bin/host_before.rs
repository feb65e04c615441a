//! `host-before FILE`: writes down what is on the host before any test, for the last one to compare.
#![allow(clippy::print_stderr)]

fn main() {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("host-before: name the file to be written");
        std::process::exit(2);
    };
    let things: Vec<String> = e2e::host::things().into_iter().collect();
    if let Err(error) = std::fs::write(&path, things.join("\n")) {
        eprintln!("host-before: write {}: {error}", path.to_string_lossy());
        std::process::exit(1);
    }
}
