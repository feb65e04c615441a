//! stub
use crate::SysError;
pub struct Hierarchy;
pub struct Group;
pub struct Limits;
impl Hierarchy { pub fn detect()->Result<Self,SysError>{Ok(Self)} pub fn group(&self,_p:&str)->Group{Group} }
impl Group { pub fn create(&self)->Result<(),SysError>{Ok(())} pub fn missing(&self)->Vec<String>{vec![]} pub fn remove_if_empty(&self)->Result<(),SysError>{Ok(())} pub fn kill(&self)->Result<(),SysError>{Ok(())} pub fn apply(&self,_l:&Limits)->Result<(),SysError>{Ok(())}}
