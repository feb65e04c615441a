//! stub
use model::*;
use crate::config::*;
use crate::spec::HostFacts;
use std::path::PathBuf;
pub(crate) fn host_facts()->Result<HostFacts,kernel::SysError>{Ok(HostFacts)}
pub(crate) fn container_cgroup(pod:&str,id:&ContainerId)->String{format!("{pod}/{id}")}
pub(crate) fn memory_dir(_c:&str,_d:CgroupDriver)->Option<PathBuf>{None}
pub(crate) fn oci_path(c:&str,_id:&ContainerId,_d:CgroupDriver)->String{c.to_owned()}
pub(crate) fn pod_cgroup(_c:&PodConfig,_id:&PodId,_n:&PodsConfig)->Result<String,kernel::SysError>{Ok(String::new())}
