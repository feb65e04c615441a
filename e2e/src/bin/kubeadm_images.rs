//! `kubeadm_images DIR`: the images that kubeadm names, as the storage of a docker-registry below DIR, for the machine
//! of `e2e/vm/kubeadm.sh`.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use e2e::Machine;
use e2e::cluster::images;
use e2e::command::{command, run};
use e2e::registry::Registry;

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1) else {
        eprintln!("kubeadm_images: say where: kubeadm_images DIR");
        return ExitCode::FAILURE;
    };
    let machine = Machine::boot();
    let registry = Registry::start(&machine);
    let names = match images::push_kubeadms(&machine, &registry) {
        Ok(names) => names,
        Err(error) => {
            eprintln!("kubeadm_images: {error}");
            return ExitCode::FAILURE;
        }
    };
    registry.stop();
    run(command("cp").arg("-a").arg(machine.dir().join("registry/storage")).arg(&dir)).ok();
    println!("{}", names.join("\n"));
    ExitCode::SUCCESS
}
