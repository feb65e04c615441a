//! Who the container's process is: the request's user or the image's, looked up in the image's own files.

use std::path::Path;

use model::{ContainerSecurity, SupplementalGroupsPolicy, host_id, limits};

use super::{SpecError, SpecInput};

const FIELD: &str = "linux.security_context";

/// A user as the process has it, and as ContainerStatus reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups: the primary one first, so that nobody loses a group by setgid(2), then the others.
    pub additional_gids: Vec<u32>,
}

/// The user of a container: `run_as_username`, `run_as_user`, or the image's USER, in this order.
///
/// /etc/passwd and /etc/group are read beneath `rootfs`; an image without them has numbers only. A user without an
/// entry has group 0.
///
/// # Errors
/// A name that the image does not know, a number out of range, a group without a user, or an unreadable file.
pub fn resolve_user(
    rootfs: &Path,
    security: &ContainerSecurity,
    image_user: &str,
) -> Result<ResolvedUser, SpecError> {
    let accounts = Accounts { passwd: read(rootfs, "/etc/passwd")?, group: read(rootfs, "/etc/group")? };
    let (field, user, group) = wanted(security, image_user)?;
    let entry = accounts.user(&user);
    let uid = match (&entry, user.parse()) {
        (Some(entry), _) => entry.uid,
        (None, Ok(uid)) => uid,
        (None, Err(_)) => {
            return Err(SpecError::invalid(
                field,
                format!("user {user:?} is not in the image's /etc/passwd"),
            ));
        }
    };
    let gid = match &group {
        None => entry.as_ref().map_or(0, |entry| entry.gid),
        Some(group) => accounts.group(group).ok_or_else(|| {
            SpecError::invalid(field, format!("group {group:?} is not in the image's /etc/group"))
        })?,
    };
    let mut gids = vec![gid];
    if security.supplemental_groups_policy == SupplementalGroupsPolicy::Merge {
        let name = entry.as_ref().map_or(user.as_str(), |entry| entry.name.as_str());
        gids.extend(accounts.memberships(name));
    }
    for (n, group) in security.supplemental_groups.iter().enumerate() {
        gids.push(id(*group, || format!("supplemental_groups[{n}]"))?);
    }
    let mut additional_gids = Vec::with_capacity(gids.len());
    for gid in gids {
        if !additional_gids.contains(&gid) {
            additional_gids.push(gid);
        }
    }
    Ok(ResolvedUser { uid, gid, additional_gids })
}

/// That the pod's own user namespace, where it has one, knows the ids of the container's process.
pub(super) fn check_mapped(input: &SpecInput<'_>) -> Result<(), SpecError> {
    let Some(own) = input.pod.security.namespaces.own_user() else { return Ok(()) };
    let security = &input.container.security;
    let of_image = |asked: bool, field: &str| match asked {
        true => format!("{FIELD}.{field}"),
        false => "image.config.user".to_owned(),
    };
    let user = match security.run_as_username.is_empty() {
        true => of_image(security.run_as_user.is_some(), "run_as_user"),
        false => format!("{FIELD}.run_as_username"),
    };
    let group = of_image(security.run_as_group.is_some(), "run_as_group");
    let process = input.user;
    let ids = [(user, "user", process.uid, &own.uids), (group, "group", process.gid, &own.gids)];
    let others = process.additional_gids.iter();
    let groups = others.map(|gid| (format!("{FIELD}.supplemental_groups"), "group", *gid, &own.gids));
    for (field, what, id, mappings) in ids.into_iter().chain(groups) {
        if host_id(mappings, id).is_none() {
            let why = format!("{what} {id} is not mapped in the pod's user namespace");
            return Err(SpecError::invalid(field, why));
        }
    }
    Ok(())
}

/// Which field decides, and the user and group that it names, by name or number.
fn wanted(
    security: &ContainerSecurity,
    image_user: &str,
) -> Result<(&'static str, String, Option<String>), SpecError> {
    let group = match security.run_as_group {
        Some(group) => Some(id(group, || "run_as_group".into())?.to_string()),
        None => None,
    };
    if !security.run_as_username.is_empty() {
        return Ok(("linux.security_context.run_as_username", security.run_as_username.clone(), group));
    }
    if let Some(user) = security.run_as_user {
        let user = id(user, || "run_as_user".into())?.to_string();
        return Ok(("linux.security_context.run_as_user", user, group));
    }
    if let Some(group) = group {
        let why = format!("{group} is given without run_as_user or run_as_username");
        return Err(SpecError::invalid(format!("{FIELD}.run_as_group"), why));
    }
    let (user, group) = match image_user.split_once(':') {
        Some((user, group)) => (user, Some(group.to_owned()).filter(|group| !group.is_empty())),
        None => (image_user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    Ok(("image.config.user", user.to_owned(), group))
}

fn id(number: i64, name: impl Fn() -> String) -> Result<u32, SpecError> {
    // The kernel keeps the last id for "no change" (chown(2), setreuid(2)).
    u32::try_from(number)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| SpecError::invalid(format!("{FIELD}.{}", name()), format!("{number} is not an id")))
}

fn read(rootfs: &Path, path: &str) -> Result<String, SpecError> {
    let bytes = kernel::rooted::read(rootfs, Path::new(path), limits::ACCOUNT_FILE_BYTES_MAX)
        .map_err(|source| SpecError::System { field: "image.config.user".into(), source })?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default())
}

/// The image's passwd(5) and group(5). Lines that are not of their form are passed over, as the C library does.
struct Accounts {
    passwd: String,
    group: String,
}

struct Entry {
    name: String,
    uid: u32,
    gid: u32,
}

impl Accounts {
    /// By name, and only then by number: `USER 1000` may be a user's name.
    fn user(&self, wanted: &str) -> Option<Entry> {
        let entries = || self.passwd.lines().filter_map(Entry::parse);
        let number = wanted.parse().ok();
        entries()
            .find(|entry| entry.name == wanted)
            .or_else(|| entries().find(|entry| Some(entry.uid) == number))
    }

    /// A group by name, or a number that need not be in the file.
    fn group(&self, wanted: &str) -> Option<u32> {
        let named = self.groups().find(|(name, ..)| *name == wanted).map(|(_, gid, _)| gid);
        named.or_else(|| wanted.parse().ok())
    }

    fn memberships(&self, user: &str) -> Vec<u32> {
        let is_member = |members: &str| members.split(',').any(|member| member == user);
        self.groups().filter(|(.., members)| is_member(members)).map(|(_, gid, _)| gid).collect()
    }

    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.trim_end().split(':');
            let (name, _password, gid) = (fields.next()?, fields.next()?, fields.next()?);
            Some((name, gid.parse().ok()?, fields.next().unwrap_or_default()))
        })
    }
}

impl Entry {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.trim_end().split(':');
        let (name, _password, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        Some(Self { name: name.to_owned(), uid: uid.parse().ok()?, gid: gid.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nweb:x:1000:1001::/srv:/bin/sh\nbroken:x:y:z\n\
                          1234:x:77:78::/:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nweb:x:1001:\nlog:x:4:web,other\nbroken\nwheel:x:10:root,web\n";

    fn image() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/passwd"), PASSWD).unwrap();
        fs::write(dir.path().join("etc/group"), GROUP).unwrap();
        dir
    }

    fn security(user: Option<i64>, name: &str, group: Option<i64>) -> ContainerSecurity {
        ContainerSecurity {
            run_as_user: user,
            run_as_username: name.into(),
            run_as_group: group,
            ..ContainerSecurity::default()
        }
    }

    fn line(user: ResolvedUser) -> String {
        let groups: Vec<String> = user.additional_gids.iter().map(u32::to_string).collect();
        format!("{}:{} {}", user.uid, user.gid, groups.join(","))
    }

    #[test]
    fn users_and_groups_by_name_and_number() {
        let image = image();
        let none = || security(None, "", None);
        let rows = [
            (none(), "", Ok("0:0 0,10")),
            (none(), "web", Ok("1000:1001 1001,4,10")),
            (none(), "1000", Ok("1000:1001 1001,4,10")),
            (none(), "web:log", Ok("1000:4 4,10")),
            (none(), "web:", Ok("1000:1001 1001,4,10")),
            (none(), ":log", Ok("0:4 4,10")),
            (none(), "5000", Ok("5000:0 0")),
            (none(), "5000:6000", Ok("5000:6000 6000")),
            (none(), "1234", Ok("77:78 78")),
            (none(), "nobody", Err("image.config.user: user \"nobody\" is not in the image's /etc/passwd")),
            (none(), "web:nope", Err("image.config.user: group \"nope\" is not in the image's /etc/group")),
            (none(), "broken", Err("image.config.user: user \"broken\" is not in the image's /etc/passwd")),
            (security(Some(1000), "", None), "nobody", Ok("1000:1001 1001,4,10")),
            (security(Some(0), "", None), "web", Ok("0:0 0,10")),
            (security(Some(1000), "", Some(7)), "", Ok("1000:7 7,4,10")),
            (security(None, "web", Some(7)), "", Ok("1000:7 7,4,10")),
            (security(Some(5), "web", None), "", Ok("1000:1001 1001,4,10")),
            (
                security(None, "nope", None),
                "web",
                Err(
                    "linux.security_context.run_as_username: user \"nope\" is not in the image's /etc/passwd",
                ),
            ),
            (
                security(None, "", Some(7)),
                "web",
                Err("linux.security_context.run_as_group: 7 is given without run_as_user or run_as_username"),
            ),
            (security(Some(-1), "", None), "", Err("linux.security_context.run_as_user: -1 is not an id")),
            (
                security(Some(4_294_967_295), "", None),
                "",
                Err("linux.security_context.run_as_user: 4294967295 is not an id"),
            ),
        ];
        for (security, image_user, expect) in rows {
            let found =
                resolve_user(image.path(), &security, image_user).map(line).map_err(|e| e.to_string());
            assert_eq!(found, expect.map(str::to_owned).map_err(str::to_owned), "{security:?} {image_user}");
        }
    }

    #[test]
    fn supplemental_groups_merge_or_stand_alone() {
        use SupplementalGroupsPolicy::{Merge, Strict};
        let image = image();
        for (policy, groups, expect) in [
            (Merge, vec![], Ok("1000:1001 1001,4,10")),
            (Merge, vec![10, 20, 20], Ok("1000:1001 1001,4,10,20")),
            (Strict, vec![], Ok("1000:1001 1001")),
            (Strict, vec![20, 1001], Ok("1000:1001 1001,20")),
            (Merge, vec![3, -1], Err("linux.security_context.supplemental_groups[1]: -1 is not an id")),
        ] {
            let security = ContainerSecurity {
                supplemental_groups: groups,
                supplemental_groups_policy: policy,
                ..ContainerSecurity::default()
            };
            let found = resolve_user(image.path(), &security, "web").map(line).map_err(|e| e.to_string());
            assert_eq!(found, expect.map(str::to_owned).map_err(str::to_owned));
        }
    }

    #[test]
    fn an_image_without_account_files_has_numbers_and_root() {
        let dir = tempfile::tempdir().unwrap();
        let none = ContainerSecurity::default();
        for (user, expect) in [("", "0:0 0"), ("7:8", "7:8 8")] {
            assert_eq!(line(resolve_user(dir.path(), &none, user).unwrap()), expect);
        }
        assert!(resolve_user(dir.path(), &none, "root").is_err());
    }

    #[test]
    fn account_files_cannot_lead_out_of_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("rootfs");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(dir.path().join("passwd"), "outsider:x:42:42::/:/\n").unwrap();
        symlink("../../passwd", root.join("etc/passwd")).unwrap();
        assert!(resolve_user(&root, &ContainerSecurity::default(), "outsider").is_err());
    }

    #[test]
    fn ids_that_the_pods_user_namespace_does_not_know_are_named() {
        use crate::spec::fixture::Fixture;
        let own = |length| {
            let mapping = vec![model::IdMapping { host_id: 65_536, container_id: 0, length }];
            Some(model::UserMode::Pod(model::UserNamespace { uids: mapping.clone(), gids: mapping }))
        };
        let refused = |field: &str, what: &str| {
            Err(format!("{field}: {what} is not mapped in the pod's user namespace"))
        };
        let context = |field: &str| format!("{FIELD}.{field}");
        let image = "image.config.user";
        // length of the mapping, asked for by the request, uid, gid, another group
        let rows = [
            (None, true, 70_000, 70_000, 70_000, Ok(())),
            (own(100), true, 99, 99, 99, Ok(())),
            (own(100), true, 100, 0, 0, refused(&context("run_as_user"), "user 100")),
            (own(100), false, 100, 0, 0, refused(image, "user 100")),
            (own(100), true, 0, 100, 0, refused(&context("run_as_group"), "group 100")),
            (own(100), false, 0, 100, 0, refused(image, "group 100")),
            (own(100), true, 0, 0, 100, refused(&context("supplemental_groups"), "group 100")),
        ];
        for (user, asked, uid, gid, other, expect) in rows {
            let mut fixture = Fixture::default();
            fixture.pod.security.namespaces.user = user;
            fixture.container.security.run_as_user = asked.then_some(uid.into());
            fixture.container.security.run_as_group = asked.then_some(gid.into());
            fixture.user = ResolvedUser { uid, gid, additional_gids: vec![gid, other] };
            assert_eq!(check_mapped(&fixture.input()).map_err(|e| e.to_string()), expect);
        }
    }
}
