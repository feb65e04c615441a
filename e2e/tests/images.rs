//! Images: pulled whole or not at all, from registries that behave and registries that do not.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use api::v1;
use e2e::faulty::{Fault, Proxy};
use e2e::image::{Builder, Image, Tree, busybox, busybox_builder, digest, media, noise};
use e2e::{Node, Registry, eventually};
use serde_json::{Value, json};

/// An image whose one large layer takes some time over a slow link.
fn large(seed: u64) -> Image {
    busybox_builder().layer(noise("large", 8 << 20, seed)).build()
}

fn used_bytes(node: &Node) -> u64 {
    let info = node.cri().image_fs_info(Default::default()).expect("ImageFsInfo");
    info.image_filesystems[0].used_bytes.expect("used bytes").value
}

/// What no finished or failed pull leaves: parts of layers, and images that nobody can name.
fn nothing_half_done(node: &Node) {
    let parts = e2e::leftovers::entries(&node.config.root.join("image/ingest"), &[]);
    assert!(parts.is_empty(), "{parts:?}");
}

#[test]
fn an_image_is_listed_by_all_its_names_and_removed_by_any() {
    let node = Node::start();
    let name = node.busybox();
    let id = node.pull(&name);
    assert_eq!(id, busybox().id);
    assert_eq!(node.pull(&name), id, "once more is the same");
    let manifest = digest(&busybox().manifest);
    let other = node.push(busybox(), "other/name:2");
    node.pull(&other);

    let image = node.image(&name).expect("it is there");
    assert_eq!(image.repo_tags, [name.clone(), other.clone()]);
    let by_digest = Registry::reference(&format!("busybox@{manifest}"));
    assert!(image.repo_digests.contains(&by_digest), "{:?}", image.repo_digests);
    assert!(image.size > 0);
    assert_eq!(image.spec.unwrap().image, name, "one of its names");
    for way in [name.as_str(), &id, &id[7..20], &by_digest, &other] {
        assert_eq!(node.image(way).map(|image| image.id), Some(id.clone()), "{way}");
    }
    assert_eq!(node.cri().list_images(Default::default()).unwrap().images.len(), 1);
    assert!(used_bytes(&node) > 0);
    node.remove_image(&other);
    assert_eq!(node.image(&name), None, "all names of an image go with it");
    node.remove_image(&other);
    nothing_half_done(&node);
}

/// What critest's "public image with digest should be pulled and removed" asks, of a digest that there is: its own is of
/// an image of the internet's.
#[test]
fn a_digest_is_pulled_shown_and_removed() {
    let node = Node::start();
    let reference = Registry::reference(&format!("busybox@{}", digest(&busybox().manifest)));
    assert_eq!(node.image(&reference), None);
    node.remove_image(&reference);
    let id = node.pull(&reference);
    assert_eq!(id, busybox().id);
    let image = node.image(&reference).expect("it is known by its digest");
    assert_eq!((image.id.as_str(), image.size > 0), (id.as_str(), true));
    assert_eq!((image.repo_tags.len(), image.repo_digests.as_slice()), (0, &[reference.clone()][..]));
    assert_eq!(node.image(&id), Some(image), "and by its id");
    node.remove_image(&id);
    assert_eq!((node.image(&reference), node.image(&id)), (None, None));
    assert!(node.cri().list_images(Default::default()).unwrap().images.is_empty());

    let wrong = format!("{}{}", &reference[..reference.len() - 4], "0000");
    let refused = node.try_pull(&wrong).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound, "{refused}");
    assert!(refused.message().contains(&wrong), "{refused}");
    nothing_half_done(&node);
}

#[test]
fn a_tag_that_moved_leaves_the_old_image_its_digest() {
    let node = Node::start();
    let reference = node.push(busybox(), "moving:1");
    let old = node.pull(&reference);
    node.push(&large(1), "moving:1");
    let new = node.pull(&reference);
    assert_ne!(old, new);
    assert_eq!(node.image(&reference).unwrap().id, new);
    let image = node.image(&old).expect("the old one is still there");
    assert_eq!((image.repo_tags.len(), image.repo_digests.len()), (0, 1));
}

#[test]
fn what_layers_hide_is_hidden_and_what_they_share_is_stored_once() {
    let node = Node::start();
    let hiding = busybox_builder()
        .layer(Tree::default().dir("data", 0o755).file("data/a", 0o644, b"a").file("data/b", 0o644, b"b"))
        .layer(Tree::default().file("data/.wh.a", 0o644, b"").file("www/.wh..wh..opq", 0o644, b""))
        .layer(Tree::default().dir("www", 0o755).file("www/new", 0o600, b"new"));
    let reference = node.push(&hiding.build(), "hiding:1");
    node.pull(&node.busybox());
    let before = used_bytes(&node);
    node.pull(&reference);
    assert!(used_bytes(&node) - before < 500_000, "busybox's layers are shared");
    let pod = node.pod("hiding").run();
    let container = pod.container("c").image(&reference).idle().start();
    assert_eq!(
        container.sh("ls /data; ls /www; stat -c %a /www/new; stat -c %a /tmp"),
        "b\nnew\n600\n1777\n"
    );
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn pulls_of_one_image_join_and_outlive_a_client_that_hangs_up() {
    let node = Node::start();
    node.push(&large(2), "large:1");
    let proxy = Proxy::start(&node.machine, Fault::Slow(Duration::from_millis(10)));
    let reference = proxy.reference("large:1");
    node.config.plain_http(reference.split('/').next().unwrap());

    // One who hangs up at once; then two at the same time.
    let request =
        || v1::PullImageRequest { image: Some(e2e::cri::image_spec(&reference)), ..Default::default() };
    let mut client = node.cri().raw_images();
    e2e::cri::runtime().block_on(async {
        let _ = tokio::time::timeout(Duration::from_millis(200), client.pull_image(request())).await;
    });
    let ids = std::thread::scope(|scope| {
        let pulls = [(); 2].map(|()| scope.spawn(|| node.pull(&reference)));
        pulls.map(|pull| pull.join().expect("a pull"))
    });
    assert_eq!(ids[0], ids[1]);
    let large_layers = 2; // busybox's programs and the noise
    assert!(proxy.large_answers() <= large_layers + 1, "fetched {} times", proxy.large_answers());
    proxy.stop(&node.machine);
    nothing_half_done(&node);
}

#[test]
fn a_connection_lost_mid_layer_is_taken_up_again() {
    let node = Node::start();
    node.push(&large(3), "cut:1");
    let proxy = Proxy::start(&node.machine, Fault::CutAfter { bytes: 3 << 20, times: 2 });
    let reference = proxy.reference("cut:1");
    node.config.plain_http(reference.split('/').next().unwrap());
    assert_eq!(node.pull(&reference), large(3).id);
    proxy.stop(&node.machine);
    nothing_half_done(&node);
}

#[test]
fn a_registry_that_went_away_mid_layer_is_named_and_nothing_is_left() {
    let node = Node::start();
    node.push(&large(4), "gone:1");
    let before = used_bytes(&node);
    let proxy = Proxy::start(&node.machine, Fault::GoneAfter { bytes: 1 << 20 });
    let reference = proxy.reference("gone:1");
    node.config.plain_http(reference.split('/').next().unwrap());
    let refused = node.try_pull(&reference).expect_err("it never came whole");
    assert!(refused.message().contains("gone:1") || refused.message().contains("sha256:"), "{refused}");
    assert_eq!(node.image(&reference), None);
    proxy.stop(&node.machine);
    eventually("nothing is left", Duration::from_secs(10), || {
        let parts = e2e::leftovers::entries(&node.config.root.join("image/ingest"), &[]);
        if parts.is_empty() { Ok(()) } else { Err(format!("{parts:?}")) }
    });
    assert!(used_bytes(&node) <= before + 3_000_000, "whole layers may stay for the next try, parts may not");

    let nobody = node.try_pull("127.0.0.1:1/nobody/there:1").expect_err("nobody listens");
    assert!(nobody.message().starts_with("RegistryUnavailable"), "{nobody}");
}

#[test]
fn wrong_bytes_are_refused_by_their_digest() {
    let node = Node::start();
    node.push(&large(5), "wrong:1");
    let proxy = Proxy::start(&node.machine, Fault::FlipByte { at: 5 << 20 });
    let reference = proxy.reference("wrong:1");
    node.config.plain_http(reference.split('/').next().unwrap());
    let refused = node.try_pull(&reference).expect_err("the layer is not what the manifest says");
    assert!(refused.message().contains("sha256:"), "{refused}");
    assert_eq!(node.image(&reference), None);
    proxy.stop(&node.machine);
    nothing_half_done(&node);
}

#[test]
fn a_config_that_lies_about_its_layers_is_refused() {
    let node = Node::start();
    let mut image = Builder::default().layer(noise("a", 1000, 1)).build();
    let mut config: Value = serde_json::from_slice(&image.blobs[&image.id]).unwrap();
    config["rootfs"]["diff_ids"] = json!([digest(b"another layer")]);
    let config = config.to_string().into_bytes();
    let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["config"] = json!({"mediaType": media::CONFIG, "digest": digest(&config), "size": config.len()});
    image.blobs.insert(digest(&config), config);
    image.manifest = manifest.to_string().into_bytes();
    let reference = node.push(&image, "liar:1");
    let refused = node.try_pull(&reference).expect_err("the diff id is not the layer's");
    assert!(refused.message().contains("diff"), "{refused}");
    assert_eq!(node.image(&reference), None);
    nothing_half_done(&node);
}

#[test]
fn an_image_that_is_not_there_is_said_to_be_so() {
    let node = Node::start();
    let missing = Registry::reference("no/such:1");
    let refused = node.try_pull(&missing).expect_err("there is none");
    assert!(refused.message().contains("no/such"), "{refused}");
    assert_eq!(node.image(&missing), None);
    let pod = node.pod("p").run();
    let refused = pod.container("c").image(&missing).idle().try_create().expect_err("no image");
    assert_eq!(refused.code(), tonic::Code::NotFound, "{refused}");
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn a_disk_that_fills_up_fails_the_pull_and_frees_what_it_took() {
    let node = Node::builder().with(|config, machine| {
        let root = machine.dir().join("small");
        std::fs::create_dir_all(&root).unwrap();
        machine.sh(&format!("mount -t tmpfs -o size=24m tmpfs {0} && mkdir {0}/root", root.display()));
        config.root = root.join("root");
    });
    let node = node.start();
    let huge = Builder::default().layer(noise("huge", 32 << 20, 6)).build();
    let reference = node.push(&huge, "huge:1");
    let refused = node.try_pull(&reference).expect_err("32 MiB do not fit into 24");
    assert!(refused.message().to_lowercase().contains("space"), "{refused}");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
    assert_eq!(node.image(&reference), None);
    assert_eq!(node.pull(&node.busybox()), busybox().id, "there is room again");
}

#[test]
fn archives_are_imported_as_tar_gzip_or_directory() {
    let node = Node::start();
    let dir = node.machine.dir().join("archives");
    std::fs::create_dir_all(&dir).unwrap();
    let image = Builder::default().layer(noise("a", 5000, 7)).build();
    let layout = image.layout("registry.example/imported:1");
    let tar = dir.join("image.tar");
    std::fs::write(&tar, layout.tar()).unwrap();
    node.machine.sh(&format!("gzip -k {}", tar.display()));
    layout.write(&dir.join("layout"));
    for form in ["image.tar", "image.tar.gz", "layout"] {
        node.gantline(&["import", &dir.join(form).display().to_string()]).ok();
        let imported = node.image("registry.example/imported:1").unwrap_or_else(|| panic!("{form}"));
        assert_eq!(imported.id, image.id, "{form}");
        node.remove_image("registry.example/imported:1");
    }
    nothing_half_done(&node);
}

#[test]
fn a_removed_image_stays_whole_under_its_container() {
    let node = Node::start();
    let pod = node.pod("keeps").run();
    let container = pod.container("c").idle().create();
    node.remove_image(&node.busybox());
    assert_eq!(node.image(&node.busybox()), None);
    container.try_start().expect("its image is leased");
    assert_eq!(container.sh("cat /www/index.html"), "hello from busybox\n");
    pod.remove();
    let start = Instant::now();
    eventually("the layers go with their last user", Duration::from_secs(20), || {
        let left = e2e::leftovers::entries(&node.config.root.join("image/layers"), &[]);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} after {:?}", start.elapsed())) }
    });
    node.leaves_nothing();
}
