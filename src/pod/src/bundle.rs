//! A container's bundle: its root filesystem, mounted, and its OCI specification, made and undone.
//!
//! The record in phase `Creating` is the journal: it is durable before [`make`] touches the host, and
//! [`undo`] succeeds however far `make` came. A bundle holds nothing that runs; see [`crate::driver`] for
//! the start.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{Image, Images, Mapped, Seen, Snapshots};
use kernel::cgroup::Group;
use kernel::{SysError, durable};
use model::{
    Classify, ContainerConfig, ContainerId, ErrorKind, ImageSpec, MandatoryProfile, NamespaceMode, PodConfig,
    PodId, Signal, host_id,
};
use shim_client::{RunContainer, Shim};
use telemetry::{Stages, field};

use crate::cdi;
use crate::checkpoint;
use crate::config::{PodPaths, PodsConfig, PrivilegedDevices};
use crate::defined_volumes::{self, DefinedVolume};
use crate::error::{Cause, PodError};
use crate::host_paths::HostPaths;
use crate::image_volumes::{self, ImageVolumes};
use crate::records::ContainerRecord;
use crate::sandbox;
use crate::spec::{
    self, Defaults, HandlerCan, HostFacts, ImageDefaults, NamespacePaths, PodFiles, SpecInput, cgroups_path,
    prepare,
};
use crate::state::User;

/// What bundles are made with.
#[derive(Clone)]
pub(crate) struct Builder {
    config: Arc<PodsConfig>,
    images: Images,
    snapshots: Arc<dyn Snapshots>,
    stages: Stages,
    facts: Arc<HostFacts>,
    defaults: Arc<Defaults>,
    volumes: Arc<ImageVolumes>,
    host_paths: HostPaths,
    cdi: Arc<cdi::Registry>,
}

/// What one container is made from.
pub(crate) struct Input {
    pub(crate) pod: PodId,
    pub(crate) pod_config: Arc<PodConfig>,
    /// The parent of its containers' cgroups, as the driver writes it.
    pub(crate) cgroup_parent: String,
    /// What its OCI runtime can do.
    pub(crate) handler: HandlerCan,
    /// What a privileged container gets of the host's devices.
    pub(crate) privileged_devices: PrivilegedDevices,
    /// Whether an unprivileged container's /sys/fs/cgroup is writable.
    pub(crate) cgroup_writable: bool,
    /// The first process of the pod's shared PID namespace.
    pub(crate) pod_init: Option<u32>,
    /// The first process of the container whose PID namespace is shared.
    pub(crate) target_pid: Option<u32>,
    pub(crate) container: ContainerId,
    pub(crate) record: ContainerRecord,
    pub(crate) image: Arc<Image>,
    /// The images that it mounts.
    pub(crate) image_volumes: image_volumes::Wanted,
}

/// What a specification names that is there already.
struct Ready<'a> {
    rootfs: &'a Path,
    /// The container's, with the node's own profile where it has one.
    config: &'a Arc<ContainerConfig>,
    facts: &'a HostFacts,
    /// The SELinux label of its mounts.
    label: Option<&'a str>,
    edits: &'a [cdi::ContainerEdits],
    image_volumes: &'a BTreeMap<usize, PathBuf>,
    volumes: &'a [DefinedVolume],
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// Who the process will be.
    pub(crate) user: User,
}

/// A bundle that could not be made.
#[derive(Debug)]
pub(crate) struct NotMade {
    /// Why.
    pub(crate) error: PodError,
    /// Whether nothing of it is left on the host.
    pub(crate) undone: bool,
}

impl Builder {
    /// What makes every bundle of this node.
    pub(crate) fn new(
        config: Arc<PodsConfig>,
        images: Images,
        snapshots: Arc<dyn Snapshots>,
        stages: Stages,
        facts: HostFacts,
    ) -> Self {
        let defaults = Arc::new(config.spec_defaults());
        let volumes = Arc::new(ImageVolumes::new(Arc::clone(&snapshots), Arc::clone(&config)));
        let host_paths = HostPaths::new(config.path_helper.clone());
        let cdi = Arc::new(cdi::Registry::new(config.defaults.cdi_spec_dirs.clone()));
        Self { config, images, snapshots, stages, facts: Arc::new(facts), defaults, volumes, host_paths, cdi }
    }

    /// The image that a container asks for, which must be on this node.
    pub(crate) fn find_image(&self, wanted: &ImageSpec) -> Result<Arc<Image>, PodError> {
        let stage = self.stages.begin("image_resolve", &[(field::IMAGE_REF, wanted.image.as_str())]);
        stage.run_blocking(|| match self.images.find(&wanted.image) {
            Ok(Some(image)) => Ok(image),
            Ok(None) => Err(PodError::ImageNotFound(wanted.image.clone())),
            Err(error) if error.kind() == ErrorKind::Invalid => {
                Err(PodError::Invalid { field: "config.image.image", why: model::chain(&error) })
            }
            Err(error) => Err(PodError::Store(Cause::new(error))),
        })
    }

    /// The images that a container mounts, which must be on this node.
    pub(crate) fn find_volumes(&self, config: &ContainerConfig) -> Result<image_volumes::Wanted, PodError> {
        image_volumes::find(&self.images, config)
    }

    /// The image volumes of this node's pods.
    pub(crate) fn volumes(&self) -> &Arc<ImageVolumes> {
        &self.volumes
    }

    /// What the node has and may.
    pub(crate) fn facts(&self) -> &HostFacts {
        &self.facts
    }

    /// Containers that have a writable layer, for the sweep after a recovery.
    pub(crate) fn snapshots(&self) -> &Arc<dyn Snapshots> {
        &self.snapshots
    }
}

/// What StopContainer sends first.
pub(crate) fn stop_signal(config: &ContainerConfig, image: &Image) -> Result<Signal, PodError> {
    let of_image = image.config.stop_signal.as_deref().filter(|text| !text.is_empty());
    match (config.stop_signal, of_image) {
        (Some(signal), _) => Ok(signal),
        (None, None) => Ok(Signal::TERM),
        (None, Some(text)) => Signal::parse(text).map_err(|e| PodError::Invalid {
            field: "config.image.image",
            why: format!("its stop signal: {e}"),
        }),
    }
}

/// Where the container's output is kept.
pub(crate) fn log_path(pod: &PodConfig, container: &ContainerConfig) -> Option<PathBuf> {
    let directory = container.log_directory.as_ref().or(pod.log_directory.as_ref())?;
    (!container.log_path.as_os_str().is_empty()).then(|| directory.join(&container.log_path))
}

/// Makes a bundle, or leaves nothing.
pub(crate) async fn make(builder: &Builder, input: Input) -> Result<Bundle, NotMade> {
    let container = input.container.clone();
    let worker = builder.clone();
    let span = tracing::Span::current();
    let made = tokio::task::spawn_blocking(move || span.in_scope(|| worker.make(&input))).await;
    let error = match made {
        Ok(Ok(bundle)) => return Ok(bundle),
        Ok(Err(error)) => error,
        Err(_) => PodError::Stopping,
    };
    Err(match undo(builder, &container).await {
        Ok(()) => NotMade { error, undone: true },
        Err(undo) => NotMade {
            error: PodError::AndUndo { first: Box::new(error), undo: model::chain(&undo) },
            undone: false,
        },
    })
}

/// Removes what is left of a bundle. Nothing left is success.
pub(crate) async fn undo(builder: &Builder, container: &ContainerId) -> Result<(), PodError> {
    let (snapshots, bundle, container) =
        (Arc::clone(&builder.snapshots), builder.config.bundle(container), container.clone());
    blocking(move || {
        let step = |step: &'static str| {
            let container = container.clone();
            move |source| PodError::ContainerStep { step, container, source }
        };
        let unmounted = snapshots.unmount(&bundle.join("rootfs")).map_err(Cause::new);
        unmounted.map_err(step("unmount the root filesystem"))?;
        snapshots.remove(&container).map_err(Cause::new).map_err(step("remove the writable layer"))?;
        match fs::remove_dir_all(&bundle) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(step("remove the bundle")(Cause::host(SysError::path("remove", &bundle, error))))
            }
            _ => Ok(()),
        }
    })
    .await
}

/// Unmounts the image volumes of a pod whose containers have all ended. None is success.
pub(crate) async fn undo_volumes(builder: &Builder, pod: &PodId) -> Result<(), PodError> {
    let (volumes, pod) = (Arc::clone(&builder.volumes), pod.clone());
    blocking(move || {
        let step = |source| PodError::PodStep { step: "unmount the image volumes", pod: pod.clone(), source };
        volumes.remove(&pod).map_err(step)
    })
    .await
}

/// What a container has beside its bundle once it was started.
#[derive(Clone, Debug)]
pub(crate) struct Traces {
    pub(crate) container: ContainerId,
    pub(crate) cgroup: Group,
    /// What the OCI runtime keeps of it.
    pub(crate) runtime_state: PathBuf,
}

/// Clears away what only a running container needs: what the OCI runtime keeps, and the mount.
pub(crate) async fn clear(builder: &Builder, shim: Option<&Shim>, traces: &Traces) -> Result<(), PodError> {
    let deleted = match shim {
        Some(shim) => match shim.delete(&traces.container).await {
            Ok(()) => true,
            // The shim is going or gone, or never knew it.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotReady) => false,
            Err(error) => return Err(PodError::container_step("delete", &traces.container, error)),
        },
        None => false,
    };
    let (snapshots, traces) = (Arc::clone(&builder.snapshots), traces.clone());
    let rootfs = builder.config.bundle(&traces.container).join("rootfs");
    blocking(move || {
        let step = |step: &'static str| {
            let container = traces.container.clone();
            move |source| PodError::ContainerStep { step, container, source }
        };
        if !deleted {
            traces.remove().map_err(step("remove what a lost shim left"))?;
        }
        let unmounted = snapshots.unmount(&rootfs).map_err(Cause::new);
        unmounted.map_err(step("unmount the root filesystem"))
    })
    .await
}

impl Traces {
    /// Does what the OCI runtime's `delete --force` would, when no shim is there to run it.
    fn remove(&self) -> Result<(), Cause> {
        self.cgroup.kill().and_then(|()| self.cgroup.remove()).map_err(Cause::host)?;
        match fs::remove_dir_all(&self.runtime_state) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Cause::host(SysError::path("remove", &self.runtime_state, error)))
            }
            _ => Ok(()),
        }
    }
}

/// Makes the directory that the log goes to.
pub(crate) async fn prepare_log(run: &RunContainer) -> Result<(), PodError> {
    let Some(directory) = run.log.as_ref().and_then(|log| log.path.parent()).map(Path::to_owned) else {
        return Ok(());
    };
    let container = run.container.clone();
    blocking(move || {
        fs::create_dir_all(&directory).map_err(|error| PodError::ContainerStep {
            step: "make the log directory",
            container,
            source: Cause::host(SysError::path("mkdir", &directory, error)),
        })
    })
    .await
}

async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, PodError> + Send + 'static,
) -> Result<R, PodError> {
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work)).await.unwrap_or(Err(PodError::Stopping))
}

impl Builder {
    fn make(&self, input: &Input) -> Result<Bundle, PodError> {
        let container = &input.container;
        let step = |step: &'static str| {
            move |source: Cause| PodError::ContainerStep { step, container: container.clone(), source }
        };
        let bundle = self.config.bundle(container);
        let rootfs = bundle.join("rootfs");
        let pin = PodPaths::new(&self.config, &input.pod).user();
        let own_user = input.pod_config.security.namespaces.own_user();
        let user = own_user.map(|ids| Mapped { namespace: &pin, ids });
        let refused = |error: spec::SpecError| step("write the specification")(Cause::new(error));
        let facts = self.facts.renewed();
        let config = &self.with_node_profile(&input.record.config);
        let label = spec::mount_label(&input.pod, &input.pod_config, config, &facts).map_err(refused)?;
        let seen = Seen { user, label: label.as_deref() };
        let edits = cdi::edits(&self.cdi, &input.record.config);
        let edits = edits.map_err(|e| step("find the CDI devices")(Cause::new(e)))?;
        let image_volumes =
            self.volumes.mount(&input.pod, &input.record.config, &input.image_volumes, seen)?;
        fs::create_dir_all(&bundle)
            .map_err(|e| step("make the bundle")(Cause::host(SysError::path("mkdir", &bundle, e))))?;
        self.stages.begin("snapshot", &[(field::CONTAINER_ID, container.as_str())]).run_blocking(|| {
            let from = input.record.restored_from.as_deref();
            let diff = from.map(|from| from.join(checkpoint::DIFF));
            let prepared =
                self.snapshots.prepare_from(container, &input.image, diff.as_deref(), &rootfs, seen);
            prepared.map_err(|e| step("make the root filesystem")(Cause::new(e)))?;
            let Some(from) = from else { return Ok(()) };
            // The checkpoint is its owner's, and may be gone by the time that the container starts.
            let images =
                kernel::copy::tree(&from.join(checkpoint::IMAGES), &self.snapshots.checkpoint(container));
            images.map_err(|e| step("copy the checkpoint")(Cause::host(e)))
        })?;
        let volumes = self.make_volumes(input, &rootfs).map_err(step("make the image's volumes"))?;
        let ready = Ready {
            rootfs: &rootfs,
            config,
            facts: &facts,
            label: label.as_deref(),
            edits: &edits,
            image_volumes: &image_volumes,
            volumes: &volumes,
        };
        self.stages
            .begin("spec", &[(field::CONTAINER_ID, container.as_str())])
            .run_blocking(|| self.write_spec(input, &ready))
    }

    /// Writes the bundle's config.json.
    fn write_spec(&self, input: &Input, ready: &Ready<'_>) -> Result<Bundle, PodError> {
        let &Ready { rootfs, config, facts, label, edits, image_volumes, volumes } = ready;
        let container = &input.container;
        let step = |step: &'static str| {
            move |source: Cause| PodError::ContainerStep { step, container: container.clone(), source }
        };
        let refused = |error: spec::SpecError| step("write the specification")(Cause::new(error));
        let mut user =
            spec::resolve_user(rootfs, &config.security, &input.image.config.user).map_err(refused)?;
        let mut look = self.host_paths.look();
        let must_exist = &self.config.defaults.absent_mount_sources_to_reject;
        let mounts = prepare::mounts(&mut look, config, image_volumes, must_exist).map_err(refused)?;
        spec::id_maps::check(config, &mounts).map_err(refused)?;
        let privileged = config.security.privileged;
        let choice = prepare::DeviceChoice {
            all_of_hosts: privileged && input.privileged_devices == PrivilegedDevices::All,
            owned_by_user: self.config.defaults.device_ownership_from_security_context,
        };
        let devices = prepare::devices(&mut look, config, choice).map_err(refused)?;
        let injection = spec::Injection::prepare(&mut look, edits, &user).map_err(refused)?;
        for gid in &injection.additional_gids {
            if !user.additional_gids.contains(gid) {
                user.additional_gids.push(*gid);
            }
        }
        let profile = config.security.seccomp.as_ref().filter(|_| !privileged);
        let seccomp = spec::read_localhost(profile).map_err(refused)?;
        let cgroups_path =
            cgroups_path::container(self.config.cgroup_driver, &input.cgroup_parent, container);
        let cgroups_path = cgroups_path.map_err(refused)?;
        let image = &input.image.config;
        let files = self.files(input);
        let spec = spec::build(&SpecInput {
            pod_id: &input.pod,
            pod: &input.pod_config,
            container_id: container,
            container: config,
            image: &ImageDefaults {
                user: image.user.clone(),
                env: image.env.clone(),
                entrypoint: image.entrypoint.clone(),
                cmd: image.cmd.clone(),
                working_dir: image.working_dir.clone(),
            },
            user: &user,
            rootfs,
            hostname: &sandbox::hostname(&input.pod, &input.pod_config),
            files: &files,
            namespaces: &self.namespaces(input),
            mounts: &mounts,
            volumes,
            devices: &devices,
            injection: &injection,
            seccomp_localhost: seccomp.as_deref(),
            cgroups_path: &cgroups_path,
            host: facts,
            handler: input.handler,
            all_devices: privileged && input.privileged_devices != PrivilegedDevices::None,
            cgroup_writable: input.cgroup_writable,
            defaults: &self.defaults,
        })
        .map_err(refused)?;
        prepare::make_missing(&mut look, &mounts).map_err(refused)?;
        if let Some(label) = label {
            spec::relabel::relabel(config, &mounts, &files, label).map_err(refused)?;
        }
        let bytes = serde_json::to_vec(&spec).map_err(|e| step("write the specification")(Cause::host(e)))?;
        // Not synced: a reboot ends every container, and takes the bundles with it.
        durable::replace(&self.config.bundle(container).join("config.json"), &bytes, 0o600)
            .map_err(|e| step("write the specification")(Cause::host(e)))?;
        let groups: BTreeSet<u32> =
            [user.gid].into_iter().chain(user.additional_gids.iter().copied()).collect();
        let user = User { uid: user.uid, gid: user.gid, supplemental_groups: groups.into_iter().collect() };
        Ok(Bundle { user })
    }

    /// The volumes that the image asks for, unless the node makes none.
    fn make_volumes(&self, input: &Input, rootfs: &Path) -> Result<Vec<DefinedVolume>, Cause> {
        let volumes = &input.image.config.volumes;
        if volumes.is_empty() || !self.config.defaults.image_defined_volumes {
            return Ok(Vec::new());
        }
        let own_user = input.pod_config.security.namespaces.own_user();
        let root = own_user.map_or((Some(0), Some(0)), |own| (host_id(&own.uids, 0), host_id(&own.gids, 0)));
        let root = (root.0.unwrap_or(0), root.1.unwrap_or(0));
        let directory = self.snapshots.volumes(&input.container);
        defined_volumes::make(rootfs, root, &directory, volumes, &input.record.config.mounts)
            .map_err(Cause::new)
    }

    /// A container whose default seccomp profile is the node's own file, where the node has one.
    fn with_node_profile(&self, config: &Arc<ContainerConfig>) -> Arc<ContainerConfig> {
        let defaults = &self.config.defaults;
        let is_default = match &config.security.seccomp {
            Some(MandatoryProfile::RuntimeDefault) => true,
            None => defaults.seccomp_when_unset,
            Some(_) => false,
        };
        match &defaults.seccomp_profile {
            Some(path) if is_default => {
                let mut config = (**config).clone();
                let path = path.to_string_lossy().into_owned();
                config.security.seccomp = Some(MandatoryProfile::Localhost(path));
                Arc::new(config)
            }
            _ => Arc::clone(config),
        }
    }

    fn files(&self, input: &Input) -> PodFiles {
        let paths = PodPaths::new(&self.config, &input.pod);
        let shared = input.pod_config.security.namespaces.ipc == NamespaceMode::Pod;
        PodFiles {
            resolv_conf: Some(paths.resolv_conf()),
            hostname: Some(paths.hostname()),
            hosts: Some(paths.hosts()),
            shm: shared.then(|| paths.shm()),
        }
    }

    fn namespaces(&self, input: &Input) -> NamespacePaths {
        let paths = PodPaths::new(&self.config, &input.pod);
        let namespaces = &input.pod_config.security.namespaces;
        let networked = namespaces.network == NamespaceMode::Pod;
        let pid_of = |pid: Option<u32>| pid.map(|pid| PathBuf::from(format!("/proc/{pid}/ns/pid")));
        NamespacePaths {
            user: namespaces.own_user().map(|_| paths.user()),
            network: networked.then(|| self.config.netns(&input.pod)),
            ipc: (namespaces.ipc == NamespaceMode::Pod).then(|| paths.ipc()),
            uts: networked.then(|| paths.uts()),
            pid: pid_of(input.pod_init),
            target_pid: pid_of(input.target_pid),
        }
    }
}
