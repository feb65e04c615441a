//! A pod that goes on from a checkpoint: a new sandbox, and containers that are created from what was written. Their
//! processes go on when they are started.
//!
//! What the checkpoint has of a process is what it is; a configuration that says otherwise is refused
//! (cri-api, RestorePodRequest).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use model::{ContainerConfig, ContainerId, PodConfig, PodId};
use tracing::warn;

use super::manifest::{self, ContainerManifest, PodManifest};
use crate::Pods;
use crate::error::PodError;

const CHECKPOINT: &str = "checkpoint_path";
const CONFIGS: &str = "container_configs";

/// What a restore has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The new sandbox.
    pub pod: PodId,
    /// Its containers by name, in the order they were asked for; each is created and not started.
    pub containers: Vec<(String, ContainerId)>,
}

impl Pods {
    /// Makes a sandbox and its containers from what [`Pods::checkpoint_pod`] has written, which is not changed and not
    /// needed any more when this returns. They go on when they are started.
    ///
    /// # Errors
    /// What stopped it; nothing is left then.
    pub async fn restore_pod(
        &self,
        checkpoint: &Path,
        config: PodConfig,
        containers: Vec<ContainerConfig>,
    ) -> Result<Restored, PodError> {
        let path = checkpoint.to_owned();
        let manifest = super::blocking(move || PodManifest::read(&path)).await?;
        let manifest = manifest.map_err(|why| PodError::Invalid { field: CHECKPOINT, why })?;
        let (handler, _) = self.config().handler(&config.runtime_handler)?;
        let attempt = format!("restore pod sandbox {}", config.identity);
        let runtime = manifest::runtime(self.config(), &handler);
        if runtime != manifest.runtime {
            let why = format!("{} wrote it, and handler {handler:?} runs {runtime}", manifest.runtime);
            return Err(PodError::NoCheckpoint { attempt, why });
        }
        if config.security.namespaces.own_user().is_some() {
            let why = "CRIU cannot restore a container whose user namespace is its pod's".to_owned();
            return Err(PodError::NoCheckpoint { attempt, why });
        }
        super::has_criu(&attempt)?;
        let sources = self.matched(&manifest, &containers)?;
        let sources: Vec<PathBuf> = sources.iter().map(|source| checkpoint.join(source)).collect();
        let pods = self.clone();
        self.beside(async move {
            let pod = pods.run_pod(config).await?;
            match pods.create_all(&pod, containers, sources).await {
                Ok(containers) => Ok(Made { pods, restored: Some(Restored { pod, containers }) }),
                Err(error) => Err(match pods.remove_pod(pod.as_str()).await {
                    Ok(()) => error,
                    Err(undo) => PodError::AndUndo { first: Box::new(error), undo: model::chain(&undo) },
                }),
            }
        })
        .await
        .and_then(Made::keep)
    }

    async fn create_all(
        &self,
        pod: &PodId,
        configs: Vec<ContainerConfig>,
        sources: Vec<PathBuf>,
    ) -> Result<Vec<(String, ContainerId)>, PodError> {
        let mut made = Vec::new();
        for (config, source) in configs.into_iter().zip(sources) {
            let name = config.name.clone();
            made.push((name, self.create_from(pod.as_str(), config, Some(source)).await?));
        }
        Ok(made)
    }

    /// The directory of each container in the checkpoint, once every name has one and each is what was written.
    fn matched(&self, manifest: &PodManifest, configs: &[ContainerConfig]) -> Result<Vec<PathBuf>, PodError> {
        let invalid = |why: String| PodError::Invalid { field: CONFIGS, why };
        let mut names = BTreeSet::new();
        let mut sources = Vec::new();
        for (n, config) in configs.iter().enumerate() {
            if !names.insert(&config.name) {
                return Err(invalid(format!("[{n}].metadata.name: {:?} is named twice", config.name)));
            }
            let written = manifest.containers.iter().find(|written| written.config.name == config.name);
            let written = written.ok_or_else(|| {
                invalid(format!("[{n}].metadata.name: the checkpoint has no container {:?}", config.name))
            })?;
            if let Some(field) = self.other_than_written(written, config)? {
                return Err(invalid(format!("[{n}].{field} is not what the checkpoint has")));
            }
            sources.push(PathBuf::from(&written.directory));
        }
        let missing = manifest.containers.iter().find(|written| !names.contains(&written.config.name));
        match missing {
            Some(written) => {
                Err(invalid(format!("container {:?} of the checkpoint is missing", written.config.name)))
            }
            None => Ok(sources),
        }
    }

    /// The first field of a process that is not as it was written.
    fn other_than_written(
        &self,
        written: &ContainerManifest,
        config: &ContainerConfig,
    ) -> Result<Option<&'static str>, PodError> {
        let (was, is) = (&written.config, config);
        let (was_who, is_who) = (&was.security, &is.security);
        let same = [
            ("image", self.host.bundles.find_image(&is.image)?.id == written.image),
            ("command", was.command == is.command),
            ("args", was.args == is.args),
            ("working_dir", was.working_dir == is.working_dir),
            ("envs", was.envs == is.envs),
            ("stdin", was.stdin == is.stdin),
            ("tty", was.tty == is.tty),
            ("linux.security_context.run_as_user", was_who.run_as_user == is_who.run_as_user),
            ("linux.security_context.run_as_username", was_who.run_as_username == is_who.run_as_username),
            ("linux.security_context.run_as_group", was_who.run_as_group == is_who.run_as_group),
            (
                "linux.security_context.supplemental_groups",
                was_who.supplemental_groups == is_who.supplemental_groups
                    && was_who.supplemental_groups_policy == is_who.supplemental_groups_policy,
            ),
            ("linux.security_context.privileged", was_who.privileged == is_who.privileged),
        ];
        Ok(same.iter().find(|(_, same)| !same).map(|(field, _)| *field))
    }
}

/// What a restore has made; if nobody waited for it, it is removed again.
struct Made {
    pods: Pods,
    restored: Option<Restored>,
}

impl Made {
    fn keep(mut self) -> Result<Restored, PodError> {
        self.restored.take().ok_or(PodError::Stopping)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let Some(Restored { pod, .. }) = self.restored.take() else { return };
        let pods = self.pods.clone();
        self.pods.host.jobs.spawn(async move {
            if let Err(error) = pods.remove_pod(pod.as_str()).await {
                warn!(
                    pod.id = pod.as_str(),
                    error = model::chain(&error),
                    "undo of a restore that was given up"
                );
            }
        });
    }
}
