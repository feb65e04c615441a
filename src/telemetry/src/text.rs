//! The two forms in which a scraper can have the metrics: OpenMetrics with its exemplars, and Prometheus's own text
//! from before it, for those who do not ask for the other.

use std::fmt::Write as _;

/// A form of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// OpenMetrics 1.0, "Text format".
    OpenMetrics,
    /// Prometheus's text format 0.0.4 ("Exposition formats" in its documentation): no exemplars.
    Classic,
}

impl Exposition {
    /// The form that suits a request's Accept header (RFC 9110, 12.5.1) best; the classic one where it says nothing.
    pub fn wanted(accept: Option<&str>) -> Self {
        let (mut open, mut classic) = (0.0, 0.0);
        for range in accept.unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse::<f64>);
            let quality = quality.unwrap_or(0.0);
            match kind.as_str() {
                "application/openmetrics-text" => open = quality.max(open),
                "text/plain" | "text/*" | "*/*" => classic = quality.max(classic),
                _ => {}
            }
        }
        if open > 0.0 && open >= classic { Self::OpenMetrics } else { Self::Classic }
    }

    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// OpenMetrics text, which our encoder writes, in the form from before it: a counter's family is called as its samples
/// are, an info is a gauge, and there are no units, exemplars and end.
pub(crate) fn classic(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // What the samples of the family under way have at the end of their names.
    let mut help = None;
    for line in text.lines() {
        let comment = line.strip_prefix("# ").map(|comment| comment.splitn(3, ' ').collect::<Vec<_>>());
        // Writing to a String cannot fail.
        let _ = match comment.as_deref() {
            // Its name is known with its type.
            Some(["HELP", _, words]) => {
                help = Some(*words);
                Ok(())
            }
            Some(["TYPE", name, kind]) => {
                let (suffix, kind) = match *kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    other => ("", other),
                };
                let help = help.take().unwrap_or_default();
                writeln!(out, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}")
            }
            Some(_) => Ok(()),
            None if line.starts_with('#') => Ok(()),
            None => writeln!(out, "{}", line.split(" # {").next().unwrap_or(line)),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scraper_gets_the_form_that_it_asks_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
            application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,\
            text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, form) in [
            (None, Exposition::Classic),
            (Some("*/*"), Exposition::Classic),
            (Some("text/plain"), Exposition::Classic),
            (Some("text/plain;q=0.5, application/openmetrics-text;q=0.4"), Exposition::Classic),
            (Some("application/openmetrics-text;q=0"), Exposition::Classic),
            (Some("Application/OpenMetrics-Text; version=1.0.0"), Exposition::OpenMetrics),
            (Some(prometheus), Exposition::OpenMetrics),
        ] {
            assert_eq!(Exposition::wanted(accept), form, "{accept:?}");
        }
    }

    #[test]
    fn the_classic_form_names_families_as_their_samples_and_has_no_exemplars() {
        let text = "# HELP g_pull_bytes Received from registries.\n# TYPE g_pull_bytes counter\n\
            # UNIT g_pull_bytes bytes\ng_pull_bytes_total 4\n\
            # HELP g_d_seconds Durations.\n# TYPE g_d_seconds histogram\n# UNIT g_d_seconds seconds\n\
            g_d_seconds_bucket{le=\"0.5\",stage=\"a\"} 1 # {trace_id=\"ab\"} 0.25 1.5\n\
            # HELP g_build The version.\n# TYPE g_build info\ng_build_info{version=\"1\"} 1\n# EOF\n";
        assert_eq!(
            classic(text),
            "# HELP g_pull_bytes_total Received from registries.\n# TYPE g_pull_bytes_total counter\n\
             g_pull_bytes_total 4\n\
             # HELP g_d_seconds Durations.\n# TYPE g_d_seconds histogram\n\
             g_d_seconds_bucket{le=\"0.5\",stage=\"a\"} 1\n\
             # HELP g_build_info The version.\n# TYPE g_build_info gauge\ng_build_info{version=\"1\"} 1\n"
        );
    }
}
