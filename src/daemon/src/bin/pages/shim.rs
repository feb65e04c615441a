//! gantline-shim(8): prose, for nobody starts a shim by hand; its command line is the program's own text.

use roff::bold;

use crate::page::Page;
use crate::shim_options::USAGE;

/// The page.
pub(crate) fn page(date: &str) -> String {
    let mut page = Page::new("gantline-shim", "8", date, "the process of Gantline that stays with a pod");
    page.section("SYNOPSIS").literal(USAGE.strip_prefix("usage: ").unwrap_or(USAGE));
    page.section("DESCRIPTION")
        .paragraph(
            "The service starts one `gantline-shim` for each pod, from a sealed copy in memory; nobody else needs to. It is \
             the parent of the pod's containers: it calls the OCI runtime, keeps their standard streams, writes their logs, \
             runs execs and attaches, and records how they ended before it reaps them.",
        )
        .paragraph(
            "It outlives the service: a service that starts again, or a newer one, finds it by its socket and goes on where \
             the last one stopped. It ends when its pod is removed. Killing it loses the pod's logs and exit codes from then \
             on; remove the pod instead.",
        );
    page.section("OPTIONS")
        .term(vec![bold("--pod")], "The pod's id.")
        .term(vec![bold("--dir")], "Holds the socket and the shim's own log.")
        .term(vec![bold("--exits")], "Gets the records of how containers ended.")
        .term(vec![bold("--shared-pid")], "Be the parent of a PID namespace for all containers.")
        .term(
            vec![bold("--user-namespace")],
            "Who owns that PID namespace; otherwise the host's user namespace does.",
        );
    page.section("SIGNALS").paragraph("Those of terminals and service managers are ignored.");
    page.see_also(&["gantline(8)", "crun(1)", "runc(8)"]);
    page.whole()
}
