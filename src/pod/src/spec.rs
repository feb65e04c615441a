//! stub
use model::*;
use std::path::*;
use serde::*;
#[derive(Serialize,Deserialize)] pub struct Spec;
#[derive(Debug)] pub struct HostFacts;
pub struct Defaults;
impl crate::config::ContainerDefaults { pub(crate) fn for_specs(&self,_c:&crate::config::PodsConfig)->Defaults{Defaults} }
#[derive(Debug,thiserror::Error)] #[error("x")] pub struct SpecError;
impl Classify for SpecError { fn kind(&self)->ErrorKind{ErrorKind::Invalid} }
pub struct ImageDefaults{pub user:String,pub env:Vec<String>,pub entrypoint:Vec<String>,pub cmd:Vec<String>,pub working_dir:String}
pub struct PodFiles{pub resolv_conf:Option<PathBuf>,pub hostname:Option<PathBuf>,pub hosts:Option<PathBuf>,pub shm:Option<PathBuf>}
pub struct NamespacePaths{pub network:Option<PathBuf>,pub ipc:Option<PathBuf>,pub uts:Option<PathBuf>,pub pid:Option<PathBuf>,pub target_pid:Option<PathBuf>}
pub struct ResolvedUser{pub uid:u32,pub gid:u32,pub additional_gids:Vec<u32>}
pub struct SpecInput<'a>{pub pod_id:&'a PodId,pub pod:&'a PodConfig,pub container_id:&'a ContainerId,pub container:&'a ContainerConfig,pub image:&'a ImageDefaults,pub user:&'a ResolvedUser,pub rootfs:&'a Path,pub hostname:&'a str,pub files:&'a PodFiles,pub namespaces:&'a NamespacePaths,pub mounts:&'a [u8],pub devices:&'a [u8],pub seccomp_localhost:Option<&'a [u8]>,pub cgroups_path:&'a str,pub host:&'a HostFacts,pub defaults:&'a Defaults}
pub fn build(_i:&SpecInput<'_>)->Result<Spec,SpecError>{Ok(Spec)}
pub fn exec_process(_s:&Spec,_c:Vec<String>,_t:bool)->u8{0}
pub fn limits(_r:&Resources)->Result<kernel::cgroup::Limits,SpecError>{Ok(kernel::cgroup::Limits)}
pub fn with_resources(s:Spec,_r:&Resources)->Result<Spec,SpecError>{Ok(s)}
pub fn read_localhost(_p:&str)->Result<Vec<u8>,SpecError>{Ok(vec![])}
pub fn resolve_user(_r:&Path,_s:&ContainerSecurity,_u:&str)->Result<ResolvedUser,SpecError>{Err(SpecError)}
pub mod prepare{ use super::*; pub fn mounts(_m:&[Mount])->Result<Vec<u8>,SpecError>{Ok(vec![])} pub fn devices(_c:&ContainerConfig)->Result<Vec<u8>,SpecError>{Ok(vec![])} }
