//! Looks here, through a helper that answers, and through some that do not.

use std::os::unix::fs::symlink;
use std::time::Instant;

use super::*;

fn paths(program: &str, arguments: &[&str]) -> HostPaths {
    let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
    // One that is not going to answer is not waited for long.
    let silent = program != "/bin/true";
    let patience = if silent { Duration::from_millis(300) } else { Duration::from_secs(20) };
    HostPaths { patience, ..HostPaths::new(Some((program.into(), arguments))) }
}

#[test]
fn local_paths_without_links_need_no_helper() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    std::fs::create_dir(dir.join("real")).unwrap();
    symlink(dir.join("real"), dir.join("link")).unwrap();
    let nobody = paths("/nonexistent", &[]);
    let mut look = nobody.look();
    let found = look.source(&dir.join("real")).unwrap();
    assert_eq!((found.path.as_path(), found.missing), (dir.join("real").as_path(), false));
    assert_eq!(look.mount_of(&found).unwrap(), &mount::holding(&dir).unwrap());
    for path in ["link", "absent", "real/../real"] {
        assert!(look.source(&dir.join(path)).is_err(), "{path} wants the helper");
    }
    let here = HostPaths::new(None);
    let mut look = here.look();
    assert_eq!(look.source(&dir.join("link")).unwrap().path, dir.join("real"));
    let absent = look.source(&dir.join("link/a/b")).unwrap();
    assert_eq!((absent.path, absent.missing), (dir.join("real/a/b"), true));
}

#[test]
fn questions_and_answers_are_lines() {
    let dir = tempfile::tempdir().unwrap();
    let made = dir.path().join("made");
    let asked = [
        Question::MakeDirectory(made.clone()),
        Question::Source("/dev/null".into()),
        Question::Devices { path: "/dev/null".into(), except: Vec::new() },
        Question::Source("/dev/null/below".into()),
    ];
    let lines: Vec<String> = asked.iter().map(|question| serde_json::to_string(question).unwrap()).collect();
    let mut answers = Vec::new();
    serve(lines.join("\n").as_bytes(), &mut answers).unwrap();
    let answers: Vec<Answer> =
        String::from_utf8(answers).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(made.is_dir());
    let [Answer::Made, Answer::Source(null), Answer::Devices(Listed::Device(node)), failed] = &answers[..]
    else {
        panic!("{answers:?}");
    };
    assert_eq!((null.path.as_path(), node.major, node.minor, node.kind), (Path::new("/dev/null"), 1, 3, 'c'));
    assert!(matches!(failed, Answer::Failed { errno: Some(20), .. }), "{failed:?}");
}

#[test]
fn who_does_not_answer_is_given_up_and_counted() {
    let silent = paths("/bin/sleep", &["1000"]);
    let since = Instant::now();
    let error = silent.look().source(Path::new("/nonexistent")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(error.to_string().contains("does not respond"), "{error}");
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    // The kill does end this one.
    let deadline = Instant::now() + Duration::from_secs(5);
    while silent.hanging.load(Ordering::Relaxed) > 0 {
        assert!(Instant::now() < deadline, "it is not reaped");
        std::thread::sleep(Duration::from_millis(5));
    }
    silent.hanging.store(HOST_PATHS_HANGING_MAX, Ordering::Relaxed);
    let error = silent.look().source(Path::new("/nonexistent")).unwrap_err();
    assert!(error.to_string().starts_with("16 others still hang"), "{error}");
}

#[test]
fn a_helper_that_breaks_off_is_an_error() {
    for program in ["/bin/true", "/nonexistent"] {
        let error = paths(program, &[]).look().source(Path::new("/nonexistent")).unwrap_err();
        assert_ne!(error.kind(), io::ErrorKind::TimedOut, "{program}: {error}");
    }
}
