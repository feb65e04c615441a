//! Where traces go and which: the configuration, and under it what OpenTelemetry's environment variables say
//! (OpenTelemetry specification, "Environment Variable Specification" and "OTLP Exporter Configuration").

use std::time::Duration;

use opentelemetry_sdk::trace::Sampler;

/// What the OTLP specification says where nobody does.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Where OTLP over HTTP takes traces, below an endpoint that is said for all signals.
const HTTP_PATH: &str = "v1/traces";
/// What we cannot do: said, it is refused, for traces would go out otherwise than was asked.
const UNSUPPORTED: [&str; 8] = [
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
];

/// How OTLP is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// gRPC; port 4317 by convention.
    Grpc,
    /// Protobuf over HTTP/1.1; port 4318 by convention.
    HttpProtobuf,
}

impl OtlpProtocol {
    /// As the specification spells it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
        }
    }
}

/// What the configuration says of traces; what it leaves out is the environment's to say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TraceConfig {
    /// Where they are sent: for gRPC a base URL, for HTTP the whole one.
    pub endpoint: Option<String>,
    /// How.
    pub protocol: Option<OtlpProtocol>,
    /// How long one batch may take.
    pub timeout: Option<Duration>,
    /// Which are kept, by OpenTelemetry's names.
    pub sampler: Option<String>,
    /// What share of them, 0 to 1, for the samplers that take one.
    pub ratio: Option<f64>,
    /// What the service is called in them.
    pub service_name: Option<String>,
}

/// Settings that contradict the specification, or that we do not support. Headers are never quoted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {why}")]
pub struct SettingsError {
    /// The setting, as it was given: a key of the configuration or an environment variable.
    pub variable: String,
    /// What is wrong with it.
    pub why: String,
}

/// Traces that go out.
#[derive(Clone, Debug)]
pub struct TraceSettings {
    pub(super) endpoint: String,
    pub(super) protocol: OtlpProtocol,
    pub(super) timeout: Duration,
    pub(super) sampler: Sampler,
    pub(super) service_name: Option<String>,
}

impl TraceSettings {
    /// What applies, the configuration before the environment; `None`: no traces.
    ///
    /// # Errors
    /// The first setting that is wrong, by its name.
    pub fn resolve(
        config: &TraceConfig,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, SettingsError> {
        // Empty is not set, says the specification.
        let read = |name: &str| environment(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        if read("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        match read("OTEL_TRACES_EXPORTER").as_deref() {
            None | Some("otlp") => {}
            Some("none") => return Ok(None),
            Some(other) => {
                return Err(wrong("OTEL_TRACES_EXPORTER", format!("{other:?} is not otlp or none")));
            }
        }
        // One for traces alone is taken before one for all signals.
        let of_signal = |what: &str| {
            [format!("OTEL_EXPORTER_OTLP_TRACES_{what}"), format!("OTEL_EXPORTER_OTLP_{what}")]
                .into_iter()
                .find_map(|name| read(&name).map(|value| (name, value)))
        };
        let said = match &config.endpoint {
            Some(endpoint) => Some(("tracing.endpoint".to_owned(), endpoint.clone())),
            None => of_signal("ENDPOINT"),
        };
        let Some((name, endpoint)) = said else { return Ok(None) };
        let protocol = match (config.protocol, of_signal("PROTOCOL")) {
            (Some(protocol), _) => protocol,
            (None, None) => OtlpProtocol::HttpProtobuf,
            (None, Some((name, value))) => match value.as_str() {
                "grpc" => OtlpProtocol::Grpc,
                "http/protobuf" => OtlpProtocol::HttpProtobuf,
                other => return Err(wrong(&name, format!("{other:?} is not grpc or http/protobuf"))),
            },
        };
        let for_all = name == "OTEL_EXPORTER_OTLP_ENDPOINT";
        let endpoint = check_endpoint(&name, &endpoint)?;
        let endpoint = match protocol {
            OtlpProtocol::HttpProtobuf if for_all => {
                format!("{}/{HTTP_PATH}", endpoint.trim_end_matches('/'))
            }
            _ => endpoint,
        };
        let timeout = match (config.timeout, of_signal("TIMEOUT")) {
            (Some(timeout), _) => timeout,
            (None, None) => TIMEOUT_DEFAULT,
            (None, Some((name, value))) => match value.parse() {
                Ok(ms @ 1..) => Duration::from_millis(ms),
                _ => return Err(wrong(&name, format!("{value:?} is no number of milliseconds above 0"))),
            },
        };
        if let Some((name, value)) = of_signal("HEADERS") {
            check_headers(&name, &value)?;
        }
        let unsupported = |name: &&&str| read(name).is_some_and(|value| value != "none");
        if let Some(name) = UNSUPPORTED.iter().find(unsupported) {
            return Err(wrong(name, "is not supported".to_owned()));
        }
        let sampler = sampler(config, read)?;
        let service_name = config.service_name.clone().or_else(|| read("OTEL_SERVICE_NAME"));
        Ok(Some(Self { endpoint, protocol, timeout, sampler, service_name }))
    }
}

fn wrong(variable: &str, why: String) -> SettingsError {
    SettingsError { variable: variable.to_owned(), why }
}

/// A URL without credentials: it is logged, and the configuration is shown to whoever asks for a status.
fn check_endpoint(name: &str, endpoint: &str) -> Result<String, SettingsError> {
    let uri = endpoint.parse::<http::Uri>().ok();
    let host = uri.as_ref().and_then(http::Uri::authority);
    let known = uri.as_ref().is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
    match host {
        Some(host) if host.as_str().contains('@') => {
            Err(wrong(name, "holds credentials: they belong in OTEL_EXPORTER_OTLP_HEADERS".to_owned()))
        }
        Some(_) if known => Ok(endpoint.to_owned()),
        _ => Err(wrong(name, format!("{endpoint:?} is no URL like http://127.0.0.1:4317"))),
    }
}

/// `key=value,key2=value2`. The exporter would pass over what it cannot read.
fn check_headers(name: &str, headers: &str) -> Result<(), SettingsError> {
    for (number, header) in headers.split(',').map(str::trim).filter(|header| !header.is_empty()).enumerate()
    {
        let good = header.split_once('=').is_some_and(|(key, value)| {
            let key = key.trim();
            !value.trim().is_empty() && key.parse::<http::HeaderName>().is_ok()
        });
        if !good {
            return Err(wrong(name, format!("header {} is not like name=value", number + 1)));
        }
    }
    Ok(())
}

fn sampler(config: &TraceConfig, read: impl Fn(&str) -> Option<String>) -> Result<Sampler, SettingsError> {
    let (name, word) = match (&config.sampler, read("OTEL_TRACES_SAMPLER")) {
        (Some(word), _) => ("tracing.sampler", word.clone()),
        (None, Some(word)) => ("OTEL_TRACES_SAMPLER", word),
        (None, None) => ("tracing.sampler", "parentbased_always_on".to_owned()),
    };
    let ratio = match (config.ratio, read("OTEL_TRACES_SAMPLER_ARG")) {
        (Some(ratio), _) => ("tracing.per_mille", Some(ratio)),
        (None, Some(text)) => ("OTEL_TRACES_SAMPLER_ARG", text.parse().ok()),
        (None, None) => ("tracing.per_mille", Some(1.0)),
    };
    let ratio = || match ratio {
        (_, Some(share)) if (0.0..=1.0).contains(&share) => Ok(Sampler::TraceIdRatioBased(share)),
        (name, _) => Err(wrong(name, "is no number from 0 to 1".to_owned())),
    };
    Ok(match word.as_str() {
        "always_on" => Sampler::AlwaysOn,
        "always_off" => Sampler::AlwaysOff,
        "traceidratio" => ratio()?,
        "parentbased_always_on" => Sampler::ParentBased(Box::new(Sampler::AlwaysOn)),
        "parentbased_always_off" => Sampler::ParentBased(Box::new(Sampler::AlwaysOff)),
        "parentbased_traceidratio" => Sampler::ParentBased(Box::new(ratio()?)),
        other => return Err(wrong(name, format!("{other:?} is not a sampler that we have"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(
        config: &TraceConfig,
        environment: &[(&str, &str)],
    ) -> Result<Option<TraceSettings>, SettingsError> {
        TraceSettings::resolve(config, |name| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");

    #[test]
    fn traces_are_off_unless_an_endpoint_is_said_and_the_sdk_not_disabled() {
        let off: [&[(&str, &str)]; 5] = [
            &[],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")],
            &[("OTEL_SERVICE_NAME", "x")],
            &[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")],
            &[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")],
        ];
        for environment in off {
            assert!(resolve(&TraceConfig::default(), environment).unwrap().is_none(), "{environment:?}");
        }
        let disabled = [("OTEL_SDK_DISABLED", "true")];
        let config = TraceConfig { endpoint: Some("http://h:1".into()), ..TraceConfig::default() };
        assert!(resolve(&config, &disabled).unwrap().is_none());
        assert!(resolve(&config, &[("OTEL_SDK_DISABLED", "no")]).unwrap().is_some());
    }

    #[test]
    fn the_endpoint_for_all_signals_gets_the_path_of_traces_and_the_one_for_traces_does_not() {
        let endpoint = |environment: &[(&str, &str)]| {
            resolve(&TraceConfig::default(), environment).unwrap().unwrap().endpoint
        };
        assert_eq!(endpoint(&[ENDPOINT]), "http://127.0.0.1:4318/v1/traces");
        assert_eq!(
            endpoint(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://t/x")]),
            "https://t/x"
        );
        assert_eq!(endpoint(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]), "http://127.0.0.1:4318");
    }

    #[test]
    fn the_configuration_is_taken_before_the_environment_and_the_signals_own_before_the_general() {
        let environment = [
            ENDPOINT,
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "250"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_SERVICE_NAME", "node-7"),
        ];
        let settings = resolve(&TraceConfig::default(), &environment).unwrap().unwrap();
        assert_eq!(settings.protocol, OtlpProtocol::Grpc);
        assert_eq!(settings.timeout, Duration::from_millis(250));
        assert_eq!(format!("{:?}", settings.sampler), "TraceIdRatioBased(0.25)");
        assert_eq!(settings.service_name.as_deref(), Some("node-7"));
        let config = TraceConfig {
            endpoint: Some("https://elsewhere/v1/traces".into()),
            protocol: Some(OtlpProtocol::HttpProtobuf),
            timeout: Some(Duration::from_secs(3)),
            sampler: Some("always_off".into()),
            ratio: None,
            service_name: Some("mine".into()),
        };
        let settings = resolve(&config, &environment).unwrap().unwrap();
        assert_eq!(settings.endpoint, "https://elsewhere/v1/traces");
        assert_eq!(settings.protocol, OtlpProtocol::HttpProtobuf);
        assert_eq!(settings.timeout, Duration::from_secs(3));
        assert_eq!(format!("{:?}", settings.sampler), "AlwaysOff");
        assert_eq!(settings.service_name.as_deref(), Some("mine"));
    }

    #[test]
    fn what_is_wrong_is_refused_by_its_name_and_headers_are_not_quoted() {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "127.0.0.1:4317"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://user:CANARY@host"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "CANARY"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=b,bad name=CANARY"),
            ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/x"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
        ] {
            let error = resolve(&TraceConfig::default(), &[ENDPOINT, (name, value)]).unwrap_err();
            assert_eq!(error.variable, name, "{value}");
            assert!(!error.to_string().contains("CANARY"), "{error}");
        }
        let ratio = [ENDPOINT, ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")];
        let error = resolve(&TraceConfig::default(), &ratio).unwrap_err();
        assert_eq!(error.variable, "OTEL_TRACES_SAMPLER_ARG");
        let good = [ENDPOINT, ("OTEL_EXPORTER_OTLP_HEADERS", "a=b, c = d%20e ,")];
        assert!(resolve(&TraceConfig::default(), &good).unwrap().is_some());
    }
}
