//! The fields of text lines: as tracing-subscriber writes them, without those that are meant for traces alone.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::{MakeVisitor, RecordFields, VisitOutput as _};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};

/// How the names of such fields begin.
pub(super) const FOREIGN: &str = "otel.";

/// The field format.
#[derive(Default)]
pub(super) struct Plain(DefaultFields);

impl<'w> FormatFields<'w> for Plain {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut visitor = Ours(self.0.make_visitor(writer));
        fields.record(&mut visitor);
        visitor.0.finish()
    }
}

/// Passes on what is ours.
struct Ours<V>(V);

impl<V: Visit> Visit for Ours<V> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if !field.name().starts_with(FOREIGN) {
            self.0.record_str(field, value);
        }
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        if !field.name().starts_with(FOREIGN) {
            self.0.record_error(field, value);
        }
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if !field.name().starts_with(FOREIGN) {
            self.0.record_debug(field, value);
        }
    }
}
