//! Whom a pull asks, and what it tells them: credentials, redirects, mirrors.

use std::fs;

use bytes::Bytes;
use image::{Credentials, PullRequest};
use model::{Classify as _, ErrorKind};

use crate::build::{assert_empty, digest, open};
use crate::fake::{Door, Registry};
use crate::pull::{pull, request, three_layers};

#[tokio::test(flavor = "multi_thread")]
async fn each_field_of_the_credentials_opens_its_door() {
    let built = three_layers();
    let pair = || Credentials { username: "u".into(), password: "p".into(), ..Default::default() };
    let cases: Vec<(&str, Door, Credentials, bool)> = vec![
        ("basic", Door::Basic("u:p".into()), pair(), true),
        ("bearer", Door::Bearer("u:p".into()), pair(), true),
        ("auth", Door::Bearer("u:p".into()), Credentials { auth: "dTpw".into(), ..Default::default() }, true),
        (
            "refresh",
            Door::Bearer("u:p".into()),
            Credentials { identity_token: "refresh".into(), ..Default::default() },
            true,
        ),
        (
            "token",
            Door::Bearer("u:p".into()),
            Credentials { registry_token: "ticket".into(), ..Default::default() },
            true,
        ),
        (
            "bad token",
            Door::Bearer("u:p".into()),
            Credentials { registry_token: "forged".into(), ..Default::default() },
            false,
        ),
        ("bad password", Door::Bearer("u:other".into()), pair(), false),
        ("bad basic", Door::Basic("u:other".into()), pair(), false),
        (
            "elsewhere",
            Door::Basic("u:p".into()),
            Credentials { server_address: "https://other.example".into(), ..pair() },
            false,
        ),
        ("nothing", Door::Bearer("u:p".into()), Credentials::default(), false),
    ];
    for (case, door, auth, let_in) in cases {
        let root = tempfile::tempdir().unwrap();
        let (images, registry) = (open(root.path()), Registry::start().await);
        let name = registry.put("a:v1", &built);
        registry.state().door = door;
        let result = images.pull(PullRequest { auth: Some(auth), ..request(&name) }).await;
        match result {
            Ok(_) => assert!(let_in, "{case}"),
            Err(error) => {
                assert!(!let_in, "{case}: {}", model::chain(&error));
                assert_eq!(error.kind(), ErrorKind::Denied, "{case}: {}", model::chain(&error));
            }
        }
        assert!(registry.asked("/token") <= 2, "{case}: one token for all layers");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_carry_no_credentials() {
    let root = tempfile::tempdir().unwrap();
    let (images, registry, storage) = (open(root.path()), Registry::start().await, Registry::start().await);
    let built = three_layers();
    let name = registry.put("a:v1", &built);
    storage.put("a:v1", &built);
    {
        let mut state = registry.state();
        state.door = Door::Basic("u:p".into());
        state.redirect = Some(format!("http://{}", storage.host()));
    }
    let auth = Credentials { username: "u".into(), password: "p".into(), ..Default::default() };
    images.pull(PullRequest { auth: Some(auth), ..request(&name) }).await.unwrap();
    let seen = &storage.state().seen;
    assert_eq!(seen.len(), 4);
    for seen in seen {
        assert!(!seen.headers.contains_key("authorization"), "{}", seen.path);
        assert_eq!(seen.query, "signature=secret");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_first_and_told_whose_content_is_wanted() {
    let root = tempfile::tempdir().unwrap();
    let (images, mirror, upstream) = (open(root.path()), Registry::start().await, Registry::start().await);
    let built = three_layers();
    upstream.put("library/app:v1", &built);
    mirror.put("library/app:v1", &built);
    let dir = root.path().join("certs.d/images.example");
    fs::create_dir_all(&dir).unwrap();
    let toml = format!(
        "server = \"http://{}\"\n[host.\"http://127.0.0.1:1\"]\n[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n\
         [host.\"http://{1}\".header]\nx-key = \"k\"\n",
        upstream.host(),
        mirror.host()
    );
    fs::write(dir.join("hosts.toml"), toml).unwrap();
    let secret = Credentials { username: "u".into(), password: "p".into(), ..Default::default() };
    mirror.state().door = Door::Open;
    pull(&images, "images.example/library/app:v1").await.unwrap_or_else(|e| panic!("{}", model::chain(&e)));
    assert_eq!((upstream.asked("/manifests/"), upstream.asked("/blobs/")), (1, 0), "the tag's meaning only");
    assert_eq!(mirror.asked("/blobs/"), 4);
    for seen in &mirror.state().seen {
        assert_eq!(seen.query, "ns=images.example");
        assert_eq!(seen.headers["x-key"], "k");
    }
    for seen in &upstream.state().seen {
        assert!(!seen.headers.contains_key("x-key"));
    }
    images.remove("images.example/library/app:v1").await.unwrap();
    // A mirror that does not have it, or asks for a password, is passed over and gets no secret.
    mirror.state().blobs.clear();
    mirror.state().door = Door::Basic("u:p".into());
    mirror.state().seen.clear();
    let pulled =
        images.pull(PullRequest { auth: Some(secret), ..request("images.example/library/app:v1") }).await;
    pulled.unwrap_or_else(|e| panic!("{}", model::chain(&e)));
    assert!(mirror.state().seen.iter().all(|seen| !seen.headers.contains_key("authorization")));
    assert_eq!(images.list()[0].repo_tags, ["images.example/library/app:v1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_gives_a_wrong_layer_is_passed_over_for_it() {
    let root = tempfile::tempdir().unwrap();
    let images = open(root.path());
    let (absent, wrong, upstream) =
        (Registry::start().await, Registry::start().await, Registry::start().await);
    let built = three_layers();
    for registry in [&wrong, &upstream] {
        registry.put("library/app:v1", &built);
    }
    let dir = root.path().join("certs.d/images.example");
    fs::create_dir_all(&dir).unwrap();
    let mirror =
        |registry: &Registry| format!("[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n", registry.host());
    let toml = format!("server = \"http://{}\"\n{}{}", upstream.host(), mirror(&absent), mirror(&wrong));
    fs::write(dir.join("hosts.toml"), toml).unwrap();
    let layer = digest(&built.blobs[1]);
    let blob = Bytes::from(built.blobs[1].clone());
    let flipped: Vec<u8> = blob.iter().map(|byte| byte ^ 1).collect();
    let longer = [&blob[..], b"more"].concat();
    let other = built.blobs[0].clone();
    for (what, content) in [("rubbish", flipped.clone()), ("longer", longer), ("another layer", other)] {
        wrong.state().blobs.insert(layer.clone(), content.into());
        let pulled = pull(&images, "images.example/library/app:v1").await;
        pulled.unwrap_or_else(|e| panic!("{what}: {}", model::chain(&e)));
        assert_eq!(upstream.asked("/blobs/"), upstream.asked(&layer), "{what}: that layer alone");
        // What ends early is first taken up where it broke, and then had anew.
        assert!((1..=2).contains(&upstream.asked(&layer)), "{what}");
        assert_eq!(absent.asked(&layer), 1, "{what}: who did not have it is not asked again");
        upstream.state().seen.clear();
        absent.state().seen.clear();
        images.remove("images.example/library/app:v1").await.unwrap();
    }
    // Where nobody has the right one, the pull fails with the reason, and nothing is left.
    for registry in [&wrong, &upstream] {
        registry.state().blobs.insert(layer.clone(), flipped.clone().into());
    }
    let error = pull(&images, "images.example/library/app:v1").await.unwrap_err();
    assert!(model::chain(&error).contains("verify"), "{}", model::chain(&error));
    assert_empty(root.path());
}
