//! Files in, one configuration or a list of faults out.

use super::*;

struct Files(tempfile::TempDir);

impl Files {
    /// Writes each (name, text) into a fresh directory.
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self(dir)
    }

    fn load(&self, overrides: &[Override]) -> Result<Loaded, ConfigError> {
        load(Some(&self.0.path().join("config.toml")), overrides)
    }

    /// The faults, with the directory's name taken out.
    fn faults(&self) -> Vec<String> {
        let prefix = format!("{}/", self.0.path().display());
        let error = self.load(&[]).expect_err("a fault was expected");
        error.0.iter().map(|fault| fault.to_string().replace(&prefix, "")).collect()
    }
}

fn flag(flag: &'static str, key: &'static str, value: &str) -> Override {
    Override { flag, key, value: value.to_owned() }
}

#[test]
fn an_empty_file_is_the_defaults() {
    let loaded = Files::new(&[("config.toml", "")]).load(&[]).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.config.socket(), Path::new("/run/gantline/gantline.sock"));
}

#[test]
fn later_layers_win_key_by_key() {
    let files = Files::new(&[
        (
            "config.toml",
            "root = '/a'\nstate = '/sa'\n[log]\nlevel = 'warn'\nformat = 'json'\n[runtimes.crun]\n",
        ),
        ("config.d/20-b.toml", "[log]\nlevel = 'error'\n[network]\nbin_dirs = ['/two']"),
        (
            "config.d/10-a.toml",
            "root = '/b'\n[log]\nlevel = 'debug'\n[network]\nbin_dirs = ['/one', '/other']",
        ),
        ("config.d/30-c.toml.off", "nonsense"),
        ("config.d/.40-d.toml", "nonsense"),
    ]);
    let loaded = files.load(&[flag("--state", "state", "/sb")]).unwrap();
    let config = &loaded.config;
    assert_eq!((config.root.as_path(), config.state.as_path()), (Path::new("/b"), Path::new("/sb")));
    assert_eq!(config.log.level, "error");
    assert_eq!(config.log.format, super::super::value::LogFormat::Json);
    assert_eq!(config.network.bin_dirs, [PathBuf::from("/two")], "lists are replaced, not joined");
    assert_eq!(config.runtimes.keys().collect::<Vec<_>>(), ["crun"]);
    let origin = |key: &str| loaded.origins[key].to_string().replace(files.0.path().to_str().unwrap(), "");
    assert_eq!(origin("log.level"), "/config.d/20-b.toml:2");
    assert_eq!(origin("log.format"), "/config.toml:5");
    assert_eq!(origin("root"), "/config.d/10-a.toml:1");
    assert_eq!(origin("state"), "--state");
    assert!(!loaded.origins.contains_key("cgroup.driver"));
}

/// Each text, and all that is wrong with it.
#[test]
fn every_fault_is_told_with_its_file_line_and_key() {
    let cases: &[(&str, &[&str])] = &[
        ("[server]\nsokcet = '/x'\n", &["config.toml:2: server.sokcet: unknown key; did you mean socket?"]),
        ("[netwrk]\n", &["config.toml:1: netwrk: unknown key; did you mean network?"]),
        (
            "[log]\nzzzzzzzzzz = 1\n",
            &["config.toml:2: log.zzzzzzzzzz: unknown key; known here: level, format"],
        ),
        (
            "[runtimes.crun]\n\nbinary = '/usr/bin/crun'\n",
            &[
                "config.toml:3: runtimes.crun.binary: unknown key; known here: path, privileged_without_host_devices, \
               privileged_without_host_devices_all_devices_allowed, cgroup_writable, exec",
            ],
        ),
        (
            "# a comment\n\nroot = 3\n[log]\nlevel = 'loud'\n[images]\npined = []\nfetches_max = 'many'\n",
            &[
                "config.toml:3: root: expected a path, found the integer 3",
                "config.toml:7: images.pined: unknown key; did you mean pinned?",
                "config.toml:8: images.fetches_max: expected a whole number from 0 to 18446744073709551615, \
                 found the string \"many\"",
                "config.toml:5: log.level: log level \"loud\" is neither a level (error, warn, info, debug, \
                 trace) nor a list like info,image=debug",
            ],
        ),
        (
            "[tracing]\nendpoint = 'nowhere'\nper_mille = 1001\n",
            &[
                "config.toml:3: tracing.per_mille: is more than 1000, which is all",
                "config.toml:2: tracing.endpoint: \"nowhere\" is no URL like http://127.0.0.1:4317",
            ],
        ),
        (
            "[tracing]\nsampler = 'some'\n",
            &["config.toml:2: tracing.sampler: \"some\" is not a sampler that we have"],
        ),
        ("log = 'x'\n", &["config.toml:1: log: expected a section, found the string \"x\""]),
    ];
    for (text, expected) in cases {
        assert_eq!(Files::new(&[("config.toml", text)]).faults(), *expected, "{text}");
    }
}

#[test]
fn a_syntax_error_names_its_line_and_the_other_files_are_read_all_the_same() {
    let files = Files::new(&[("config.toml", "root = '/a'\n[log\n"), ("config.d/a.toml", "stat = '/b'\n")]);
    let faults = files.faults();
    assert!(faults[0].starts_with("config.toml:2: "), "{faults:?}");
    assert_eq!(faults.last().unwrap(), "config.d/a.toml:1: stat: unknown key; did you mean state?");
}

#[test]
fn a_flag_that_is_wrong_is_named() {
    let files = Files::new(&[("config.toml", "")]);
    let error = files.load(&[flag("--metrics-address", "metrics.address", "9180")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "--metrics-address: metrics.address: expected an address like \"127.0.0.1:9180\", found the string \"9180\""
    );
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let missing = Path::new("/nonexistent/gantline.toml");
    let error = load(Some(missing), &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/nonexistent/gantline.toml:1: read: No such file or directory (os error 2)"
    );
}
